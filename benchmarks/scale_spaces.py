"""Spaces as wide as a benchmark asks for, of random images in memory."""

from __future__ import annotations

import torch
from torch import nn

from nas_theseus import SearchSpace, cut
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
from nas_theseus.tasks import from_datasets

SIZE = (8, 4, 4)
CLASSES = 4
BLOCKS = 30


def wide_space(parts: int) -> SearchSpace:
    """A chain of so many parts, each of which can be one of `BLOCKS` blocks, and a head."""
    names = [f"part{number}" for number in range(parts)]
    network = nn.Sequential()
    for name in names:
        network.add_module(name, nn.Conv2d(SIZE[0], SIZE[0], 3, padding=1))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(SIZE[0], CLASSES))
    network.add_module("head", nn.Sequential(*head))
    draw = torch.Generator().manual_seed(0)
    data = [(torch.randn(SIZE, generator=draw), i % CLASSES) for i in range(96)]
    return SearchSpace(
        guide=cut(network, names, SIZE),
        task=from_datasets(data, data[:16], SIZE, CLASSES),
        blocks=[  # 1 + 6 + 6 + 6 + 5 + 4 + 1 + 1
            Keep(),
            Basic(width=choice(0.125, 0.25, 0.375, 0.5, 0.75, 1.0)),
            Bottleneck(ratio=choice(0.125, 0.25, 0.375, 0.5, 0.75, 1.0)),
            Depthwise(expand=choice(1, 2, 4), kernel=choice(3, 5)),
            Pointwise(expand=choice(0.25, 0.5, 1, 2, 4)),
            TokenMLP(hidden=choice(4, 8, 16, 32)),
            Linear(),
            Identity(),
        ],
        keep=["head"],
    )
