"""A first search space for a pretrained vision network: smaller budgets by pictures without labels.

nas-theseus check my_space.py
nas-theseus search my_space.py --trials 12                  --all-blocks converts all blocks first
nas-theseus front my_space --at "macs <= 5e8"               the best networks for a budget
nas-theseus export my_space/ARCHITECTURE --format onnx --trust-code
"""

from __future__ import annotations

from pathlib import Path

from nas_theseus import Guide, Recipe, SearchSpace, choice, maximize, minimize
from nas_theseus.blocks import Keep, SkipPart
from nas_theseus.guide.vision import vision_guide
from nas_theseus.tasks import Task, image_folder, sample_crops
from nas_theseus.transforms import FewerChannels

MODEL = "torchvision:resnet18"  # or "timm:convnext_tiny", or "hf:FOLDER"
# "default" for the weights that the source recommends, which are downloaded once; the path of a
# file; None for random ones, to try things out.
WEIGHTS: str | Path | None = "default"
# A folder of pictures at any depth, without labels; thousands, like what the network will see.
# None for crops of scikit-learn's two sample pictures, which only show that it works.
IMAGES: Path | None = None
# Height and width of an input; None for what the weights were trained at. Less is faster.
SIZE: int | None = None


def space() -> SearchSpace:
    """What nas-theseus reads."""
    # Cut after every block that the network repeats; `nas-theseus parts` lists them.
    guide = vision_guide(MODEL, weights=WEIGHTS, size=SIZE)
    first, *blocks, head = guide.names
    return SearchSpace(
        guide=guide,
        task=pictures(guide),
        # What may stand for a part; these begin near the part, so they are useful untrained. Add
        # LowRankConv(rank=0.5), and SeparableConv() for plain convolutions such as ResNets'.
        blocks=[
            Keep(),
            FewerChannels(keep=choice(0.75, 0.5, 0.25)).on(*blocks),
            SkipPart().on(*blocks),
        ],
        keep=[first, head],  # parts that are never replaced
        # Agreement: the share of pictures where network and guide have the same first class.
        objectives=[maximize("val_agreement"), minimize("macs")],
        recipe=Recipe(
            align_examples=256,
            align_steps=0,  # these blocks begin at their least-squares solution
            epochs=4,
            batch_size=32,
            learning_rate=1e-4,  # more forgets what few pictures do not show
            freeze_statistics=True,  # batch norms keep what they learnt on the guide's own data
            distill=1.0,  # there are no labels: the guide's outputs are learnt
            temperature=1.0,
        ),
    )


def pictures(guide: Guide) -> Task:
    """What networks learn from and are measured on, prepared as the guide expects it."""
    if IMAGES is None:
        return sample_crops(guide=guide)
    return image_folder(IMAGES, labels=False, guide=guide)


MEMBER = space
