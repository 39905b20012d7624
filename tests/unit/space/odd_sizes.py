"""A space whose maps have odd sizes, on which not every block fits."""

from __future__ import annotations

from pathlib import Path

FILE = """
import torch
from torch import nn
from nas_theseus import SearchSpace, choice, cut
from nas_theseus.blocks import *
from nas_theseus.tasks import from_datasets

def space():
    size = SIZE
    net = nn.Sequential()
    for name, part in {
        "stem": nn.Conv2d(1, 8, 3, 1, 1), "low": nn.Conv2d(8, 8, 3, 2, 1),
        "same": nn.Conv2d(8, 8, 3, 1, 1), "high": nn.Conv2d(8, 8, 3, 2, 1),
        "head": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    }.items():
        net.add_module(name, part)
    data = [(torch.randn(1, *size), i % 3) for i in range(90)]
    return SearchSpace(
        guide=cut(net, ["stem", "low", "same", "high"], (1, *size)),
        task=from_datasets(data, data[:9], (1, *size), 3),
        blocks=[Keep(), BLOCKS],
        CHANGES
    )
"""


def write(folder: Path, size: str, blocks: str, changes: str = 'keep=["head"]') -> Path:
    path = folder / "space.py"
    text = FILE.replace("SIZE", size).replace("BLOCKS", blocks).replace("CHANGES", changes)
    path.write_text(text)
    return path
