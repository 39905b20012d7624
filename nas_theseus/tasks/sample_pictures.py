"""Crops of the sample pictures of installed packages: photographs to try things out, no labels."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nas_theseus.errors import DataError
from nas_theseus.tasks.images import from_datasets
from nas_theseus.tasks.unlabelled import UnlabelledTask

SAMPLES = {
    "skimage": [
        f"data/{name}.*"
        for name in ("astronaut", "chelsea", "coffee", "hubble_deep_field", "rocket")
    ],
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
}


def sample_crops(guide: Any, train: int = 400, test: int = 100) -> UnlabelledTask:
    """Crops of a few photographs, to see that something works, and no more.

    The pictures are those of scikit-learn, and of scikit-image if it is installed. Training and
    validation crops are of the left of every picture, test crops of the right.

    Args:
        guide: gives preprocessing and what is learnt.
        train: number of crops for training and validation.
        test: number of crops for the test.

    Raises:
        DataError: no package with sample pictures is installed.
    """
    paths = sample_pictures()
    if not paths:
        raise DataError(
            "sample_crops: neither scikit-learn nor scikit-image has its sample pictures here; "
            "install one of them again, or use image_folder(path, labels=False, guide=guide)"
        )
    left, right = Crops(paths, train, (0.0, 0.7)), Crops(paths, test, (0.7, 1.0))
    return from_datasets(left, right, labels=False, guide=guide, name="crops")


class Crops:
    """Square crops of a few pictures, always the same.

    Args:
        share: where crops begin and end, as shares of a picture's width.
    """

    def __init__(self, paths: list[Path], count: int, share: tuple[float, float]) -> None:
        self.paths, self.count, self.share = paths, count, share

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Image.Image:
        with Image.open(self.paths[index % len(self.paths)]) as picture:
            first, last = (round(share * picture.width) for share in self.share)
            random = np.random.RandomState(index)
            longest = min(picture.height, last - first)
            side = random.randint(longest // 2, longest + 1)
            left = first + random.randint(0, last - first - side + 1)
            top = random.randint(0, picture.height - side + 1)
            return picture.convert("RGB").crop((left, top, left + side, top + side))


def sample_pictures() -> list[Path]:
    """The sample pictures of installed packages, which are not imported."""
    return [
        path for name, found in SAMPLES.items() for one in found for path in packaged(name, one)
    ]


def packaged(package: str, pattern: str) -> list[Path]:
    """Files of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    folders = (found and found.submodule_search_locations) or ()
    return [path for folder in folders for path in sorted(Path(folder).glob(pattern))]
