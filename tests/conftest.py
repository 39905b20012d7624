"""A toy search space on scikit-learn's digits, which takes seconds to convert."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nas_theseus.values import registers

TOY_SPACE = '''"""Digits, and an untrained guide of four parts."""

from torch import nn

from nas_theseus import Recipe, SearchSpace, choice, cut
from nas_theseus.blocks import Depthwise, Keep, Linear
from nas_theseus.tasks import digits


def conv(inlet, outlet, stride=1):
    return nn.Sequential(
        nn.Conv2d(inlet, outlet, 3, stride, 1), nn.BatchNorm2d(outlet), nn.ReLU()
    )


def net():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return nn.Sequential(conv(1, 8), conv(8, 8), conv(8, 16, 2), head)


def space():
    return SearchSpace(
        guide=cut(net(), ["0", "1", "2"], (1, 8, 8)),
        task=digits(),
        blocks=[Keep(), Depthwise(expand=choice(1, 2)), Linear()],
        keep=["head"],
        guide_training=Recipe(epochs=2, distill=0),
        recipe=Recipe(epochs=1, align_steps=5),
    )
'''


@pytest.fixture(autouse=True)
def registers_as_they_were() -> Iterator[None]:
    """Members that a test adds are gone after it."""
    kinds = [kind for kind in vars(registers).values() if isinstance(kind, registers.Register)]
    before = [
        {name: dict(held) if isinstance(held, dict) else held for name, held in vars(kind).items()}
        for kind in kinds
    ]
    yield
    for kind, attributes in zip(kinds, before, strict=True):
        vars(kind).update(attributes)


@pytest.fixture
def toy_space_text() -> str:
    """The text of a space file: parts `0`, `1`, `2` and `head`; blocks Depthwise and Linear."""
    return TOY_SPACE


@pytest.fixture
def toy_space_file(tmp_path: Path, toy_space_text: str) -> Path:
    """The toy space, written to a file of its own."""
    path = tmp_path / "toy.py"
    path.write_text(toy_space_text, encoding="utf-8")
    return path
