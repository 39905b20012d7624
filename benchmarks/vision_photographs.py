"""Photographs without labels for the benchmark of vision networks: crops, split by picture.

Pictures are those that packages install: Debian's tuxpaint-stamps-default (photographs of single
things, cut out, of which the drawn ones are left out), and the samples of scikit-learn and, where
it is installed, scikit-image. Crops of one picture are in one split only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nas_theseus.guide.chain import Guide
from nas_theseus.tasks.images import ImageTask
from nas_theseus.tasks.sample_pictures import sample_pictures
from nas_theseus.tasks.task import Splits, shuffled
from nas_theseus.tasks.tensors import Statistics, TensorExamples
from nas_theseus.tasks.unlabelled import UnlabelledTask, unlabelled

# Where Debian installs them.
STAMPS = Path("/usr/share/tuxpaint/stamps")
# Folders of drawings and signs, and pictures that show less than a crop.
DRAWN, LEAST = {"symbols", "cartoon", "flags", "roadsigns", "clipart"}, 64
# Shares of the pictures; the rest is trained on.
HELD = {"validation": 0.15, "test": 0.25}
# A stamp is much of the same: crops of a photograph may show different things.
LARGE, MORE = 400, 8


@dataclass(frozen=True)
class Crops:
    """How many crops each split has; the same ones for the same numbers.

    Attributes:
        classes: of the guide.
        statistics: by which bytes are standardised.
    """

    size: int
    classes: int
    statistics: Statistics
    train: int = 6400
    validation: int = 512
    test: int = 1024

    def load(self) -> Splits:
        """Read all pictures, and crop.

        Raises:
            SystemExit: there are no stamps.
        """
        splits: dict[str, list[Path]] = {"train": [], "validation": [], "test": []}
        for path in pictures():
            splits[split_of(path)].append(path)
        examples = {name: self._examples(name, paths) for name, paths in splits.items()}
        return Splits(examples["train"], examples["validation"], examples["test"])

    def _examples(self, split: str, paths: list[Path]) -> TensorExamples:
        count = int(getattr(self, split))
        opened = [read(path) for path in paths]
        # A large photograph counts several times.
        repeated = [one for one in opened for _ in range(MORE if min(one.size) >= LARGE else 1)]
        crops = [
            self._crop(repeated[index % len(repeated)], np.random.RandomState(index))
            for index in range(count)
        ]
        order = shuffled(count, 0)
        return TensorExamples(
            torch.stack(crops)[order], torch.zeros(count, dtype=torch.long), self.statistics
        )

    def _crop(self, picture: Image.Image, random: np.random.RandomState) -> Tensor:
        """A square crop of at least half of the picture, put on a plain colour, perhaps flipped."""
        ground = Image.new("RGBA", picture.size, (*random.randint(0, 256, 3).tolist(), 255))
        shown = Image.alpha_composite(ground, picture).convert("RGB")
        side = random.randint(max(1, min(shown.size) // 2), min(shown.size) + 1)
        left, top = (random.randint(0, full - side + 1) for full in shown.size)
        box = (left, top, left + side, top + side)
        resized = shown.resize((self.size, self.size), Image.Resampling.BICUBIC, box)
        pixels = np.asarray(resized)[:, :: -1 if random.randint(2) else 1].copy()
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def pictures() -> list[Path]:
    """The files, always in one order.

    Raises:
        SystemExit: there are no stamps.
    """
    if not STAMPS.is_dir():
        raise SystemExit(f"{STAMPS} is missing: apt-get install tuxpaint-stamps-default")
    return [*_stamps(), *sample_pictures()]


def _stamps() -> Iterator[Path]:
    for path in sorted(STAMPS.rglob("*.png")):
        with Image.open(path) as picture:
            if not DRAWN & set(path.parts) and min(picture.size) >= LEAST:
                yield path


def split_of(path: Path) -> str:
    """The split of a picture, by its name: frog.png and frog-1.png show one frog."""
    subject = re.sub(r"[-_]?\d+$", "", path.stem)
    number = int(hashlib.sha256(f"{path.parent.name}/{subject}".encode()).hexdigest(), 16)
    place = number % 1000 / 1000
    for split, share in HELD.items():
        if place < share:
            return split
        place -= share
    return "train"


def read(path: Path) -> Image.Image:
    """A picture with transparency."""
    with Image.open(path) as picture:
        return picture.convert("RGBA")


def photographs(guide: Guide, counts: dict[str, int] | None = None) -> UnlabelledTask:
    """The task: the guide's outputs on the crops.

    Args:
        guide: a vision guide, whose preprocessing is taken over.
        counts: crops of each split. Default: those of `Crops`.
    """
    expected: Any = guide.preprocessing
    classes = guide.boundaries[-1].shape[0]
    source = Crops(expected.size, classes, expected.statistics, **(counts or {}))
    base = ImageTask("photographs", guide.boundaries[0], source)
    return unlabelled(base, guide, metric="agreement")
