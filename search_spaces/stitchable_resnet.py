"""Three residual nets stitched together: the search chooses among the networks between them.

The guide trains its anchors, and for each window size and direction a stitchable net over them,
once before the search. A candidate is one network of one of these nets, taken out whole; nothing
is converted, batch norms are recalibrated.
"""

from __future__ import annotations

import torch

from nas_theseus import Recipe, SearchSpace, cut
from nas_theseus.blocks import Keep
from nas_theseus.guide.networks import ResNet
from nas_theseus.stitching.anchors import Anchor
from nas_theseus.stitching.stitchable_guide import StitchableGuide
from nas_theseus.tasks import Task, fashion_mnist

TRAIN_IMAGES = 20_000  # None for all 55,000
WIDTHS = {"narrow": 8, "middle": 12, "wide": 18}


def anchor(name: str, task: Task) -> Anchor:
    """One of the family, untrained."""
    torch.manual_seed(WIDTHS[name])
    network = ResNet(blocks=(2, 2, 2), width=WIDTHS[name])
    return Anchor(name, cut(network, network.cuts, inlet=(1, 32, 32)), task)


def space() -> SearchSpace:
    """What nas-theseus reads."""
    task = fashion_mnist(train_images=TRAIN_IMAGES)
    guide = StitchableGuide(
        [anchor(name, task) for name in WIDTHS],
        # A step trains one network of some thirty: small batches, so that each has its share.
        stitch_training=Recipe(epochs=8, learning_rate=5e-3, batch_size=32, distill=0.5),
        sizes=(2, 1),
    )
    return SearchSpace(
        guide=guide,
        task=task,
        blocks=[Keep(), guide.stitched(shares=[step / 24 for step in range(25)])],
        max_span=len(guide),
        guide_training=Recipe(epochs=4, learning_rate=3e-3, batch_size=32, distill=0),
        recipe=Recipe(schedule="naive", epochs=0, distill=0),
    )
