"""Segmentation in a minute: scikit-learn's digits, each inked pixel of its digit's class."""

from __future__ import annotations

from torch import nn

from nas_theseus import Recipe, SearchSpace, cut
from nas_theseus.blocks import (
    Basic,
    Bottleneck,
    Depthwise,
    Identity,
    Keep,
    Linear,
    Pointwise,
    TokenMLP,
    choice,
)
from nas_theseus.tasks import digit_masks


def conv(inlet: int, outlet: int) -> nn.Sequential:
    """3×3 convolution that keeps the map's size."""
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, 1, 1), nn.BatchNorm2d(outlet), nn.ReLU())


def network(width: int = 32) -> nn.Sequential:
    """Five convolutions at full size see the whole digit; a linear map per pixel is the head."""
    net = nn.Sequential()
    net.add_module("stem", conv(1, width))
    for number in range(1, 5):
        net.add_module(f"block{number}", conv(width, width))
    net.add_module("head", nn.Conv2d(width, 11, 1))
    return net


def space() -> SearchSpace:
    """What nas-theseus reads."""
    return SearchSpace(
        guide=cut(network(), ["stem", "block1", "block2", "block3", "block4"], (1, 8, 8)),
        task=digit_masks(),
        blocks=[
            Keep(),
            Basic(width=choice(0.25, 0.5)),
            Bottleneck(ratio=choice(0.25, 0.5)),
            Depthwise(expand=choice(1, 2), kernel=choice(3, 5)),
            Pointwise(expand=choice(0.5, 1)),
            TokenMLP(hidden=choice(16, 32)),
            Linear(),
            Identity(),
        ],
        max_span=2,
        keep=["head"],
        guide_training=Recipe(epochs=15, distill=0, batch_size=64),
        recipe=Recipe(
            align_steps=20, align_examples=512, align_batch_size=64, epochs=8, batch_size=64
        ),
    )
