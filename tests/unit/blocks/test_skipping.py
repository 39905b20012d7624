"""Parts that can be skipped: those that add to their features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision.models as vision
from torch import Tensor, nn

from nas_theseus.blocks import SkipPart
from nas_theseus.blocks.skipping import skipped
from nas_theseus.errors import PairingError, TransformError
from nas_theseus.guide.networks import ResNet
from nas_theseus.guide.sublayers import MLP, Sublayer


def sublayer() -> Sublayer:
    return Sublayer(MLP(nn.Linear(6, 8), nn.Linear(8, 6), nn.SiLU(), None), nn.RMSNorm(6))


class Scaled(nn.Module):
    """Multiplies its input by what it computes: no addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x)


class Dropped(nn.Module):
    """Adds to its features, but for some examples in training: it is traced as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        added = self.conv(x)
        if self.training:
            added = added * (torch.rand(len(x), 1, 1, 1) > 0.2)
        return added + x


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Sequential(Dropped(), nn.ReLU()), (8, 6, 6)),
        (sublayer, (5, 6)),
        (lambda: ResNet((1, 1), 8).block1, (8, 6, 6)),
        (lambda: vision.resnet18().layer1, (64, 6, 6)),  # two blocks
        (lambda: vision.resnet50().layer1[1], (256, 6, 6)),
        (lambda: vision.mobilenet_v2().features[3], (24, 6, 6)),
        (lambda: vision.efficientnet_b0().features[3][1], (40, 6, 6)),
        (lambda: vision.convnext_tiny().features[1][0], (96, 6, 6)),
    ],
)
def test_a_part_that_adds_to_its_features_is_skipped(make: Any, shape: tuple[int, ...]) -> None:
    features = torch.randn(2, *shape)
    skip = SkipPart().transform(make().eval(), features, {})
    assert torch.equal(skip(features), features) and not list(skip.parameters())


@pytest.mark.parametrize(
    "part",
    [
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.ReLU()),
        Scaled(),
        nn.Sequential(Dropped(), nn.BatchNorm2d(8)),
        ResNet((1, 1), 8).block2,  # its skip is a projection
        ResNet((1, 1), 8).stem,
        nn.Sequential(vision.resnet18().layer1[0], nn.BatchNorm2d(64)),
    ],
    ids=lambda part: type(part).__name__,
)
def test_other_parts_are_refused(part: nn.Module) -> None:
    width = next((len(p[0]) for p in part.parameters() if p.ndim == 4), 8)
    with pytest.raises(TransformError, match="its output is not its input plus something"):
        skipped(part.eval(), torch.randn(2, width, 8, 8))


def test_a_sublayer_with_a_norm_behind_its_sum_cannot_be_skipped() -> None:
    part = sublayer()
    part.after = nn.LayerNorm(6)
    with pytest.raises(PairingError, match="'skip' cannot be made from this part.*adds to its"):
        SkipPart().transform(part, torch.randn(2, 5, 6), {})
