"""A task that is no part of the package, with a metric of its own, in a real small conversion."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nas_theseus.candidate.workshop import Converted, Workshop
from nas_theseus.conversion.finetune import train
from nas_theseus.space.load import load_space
from nas_theseus.space.mistakes import mistakes_in
from nas_theseus.tasks.score import score
from nas_theseus.values.architecture import Architecture, BlockChoice, Span

SPACE = '''
"""Restore scikit-learn's digits from noisy ones: the network gives a picture, no class."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from nas_theseus import Boundary, Recipe, SearchSpace, cut, maximize, minimize
from nas_theseus.blocks import Depthwise, Identity, Keep, Pointwise
from nas_theseus.tasks.task import Splits, SplitTask
from nas_theseus.tasks.tensors import TensorExamples


class PeakSignalToNoise:
    """In decibels, over all pixels; pictures are in [0, 1]."""

    higher_is_better = True

    def __init__(self):
        self.reset()

    def reset(self):
        self.squared, self.pixels = 0.0, 0

    def update(self, outputs, targets):
        self.squared += float((outputs - targets).square().sum())
        self.pixels += targets.numel()

    def compute(self):
        return -10 * np.log10(self.squared / self.pixels)


class Denoising(SplitTask):
    name = "denoising"
    metric = "psnr"
    direction = "maximize"
    inlet = outputs = Boundary((1, 8, 8))

    def load(self):
        clean = torch.from_numpy(load_digits().images).float().unsqueeze(1) / 16
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        noisy = clean + 0.3 * noise
        parts = (slice(0, 1000), slice(1000, 1400), slice(1400, None))
        return Splits(*(TensorExamples(noisy[p], clean[p], None) for p in parts))

    def loss(self, outputs, targets):
        return nn.functional.mse_loss(outputs, targets) / 0.09

    def meter(self):
        return PeakSignalToNoise()

    def distillation(self, outputs, teacher, temperature):
        return self.loss(outputs, teacher)


def conv(inlet, outlet):
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, 1, 1), nn.BatchNorm2d(outlet), nn.ReLU())


def space():
    net = nn.Sequential(conv(1, 16), conv(16, 16), conv(16, 16), nn.Conv2d(16, 1, 1))
    return SearchSpace(
        guide=cut(net, ["0", "1", "2"], (1, 8, 8)),
        task=Denoising(),
        blocks=[Keep(), Depthwise(), Pointwise(), Identity()],
        objectives=[maximize("val_psnr"), minimize("macs")],
        guide_training=Recipe(epochs=6, distill=0, batch_size=64),
        recipe=Recipe(epochs=2, align_steps=15, align_examples=256, batch_size=64),
    )
'''


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    path = tmp_path / "denoising.py"
    path.write_text(SPACE, encoding="utf-8")
    return path


def test_a_task_of_ones_own_is_checked_converted_and_taught(space_file: Path) -> None:
    space = load_space(space_file)
    assert mistakes_in(space) == []
    assert space.guide_training is not None and space.recipe.taught
    for _ in train(space.guide, space.task, space.guide_training, seed=0):
        pass
    guide = score(space.guide, space.task, "validation")
    assert guide > 14  # the noise alone has 10.5 decibels
    names = ("keep", "depthwise", "identity", "keep")
    choices = [
        BlockChoice(Span(i, i + 1), name, next(space.families[name].variants()))
        for i, name in enumerate(names)
    ]
    *_, last = Workshop(space, torch.device("cpu")).convert(Architecture(tuple(choices)), 0)
    assert isinstance(last, Converted)
    assert 12.5 < last.evaluation.metrics["val_psnr"] < guide + 1


def test_its_slips_are_told_before_any_training(space_file: Path) -> None:
    text = SPACE.replace('metric = "psnr"', 'metric = "psnr (dB)"')
    space_file.write_text(text.replace("val_psnr", "val_psnr (dB)"), encoding="utf-8")
    (said,) = mistakes_in(load_space(space_file))
    assert said.startswith(
        "task: metric 'psnr (dB)': a name can only have letters, digits, '_' and '.'"
    )
    text = SPACE.replace("    def distillation(self, outputs, teacher, temperature):\n", "")
    text = text.replace("        return self.loss(outputs, teacher)\n", "")
    space_file.write_text(text, encoding="utf-8")
    (said,) = mistakes_in(load_space(space_file))
    assert "task 'denoising' has no distillation" in said and "Recipe(distill=0)" in said
