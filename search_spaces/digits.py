"""Quick start: a small convolutional net on scikit-learn's 8×8 digits, searched in a minute."""

from __future__ import annotations

from torch import Tensor, nn

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
from nas_theseus.tasks import digits


class Residual(nn.Module):
    """Two 3×3 convolutions with a skip."""

    def __init__(self, inlet: int, outlet: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inlet, outlet, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outlet),
            nn.ReLU(),
            nn.Conv2d(outlet, outlet, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outlet),
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or inlet != outlet:
            self.skip = nn.Conv2d(inlet, outlet, 1, stride, bias=False)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.body(x) + self.skip(x))
        return out


def digits_net() -> nn.Sequential:
    """Stem, four residual blocks (8×8, 8×8, 4×4, 4×4), head."""
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(nn.Conv2d(1, 24, 3, 1, 1), nn.BatchNorm2d(24), nn.ReLU()))
    net.add_module("block1", Residual(24, 24))
    net.add_module("block2", Residual(24, 24))
    net.add_module("block3", Residual(24, 48, stride=2))
    net.add_module("block4", Residual(48, 48))
    net.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)))
    return net


def space() -> SearchSpace:
    """What nas-theseus reads."""
    return SearchSpace(
        guide=cut(digits_net(), ["stem", "block1", "block2", "block3", "block4"], (1, 8, 8)),
        task=digits(),
        blocks=[
            Keep(),
            Basic(width=choice(0.25, 0.5)),
            Bottleneck(ratio=choice(0.25, 0.5)),
            Depthwise(expand=choice(1, 2)),
            Pointwise(expand=choice(0.5, 1)),
            TokenMLP(hidden=choice(16, 32)),
            Linear(),
            Identity(),
        ],
        max_span=2,
        keep=["head"],
        guide_training=Recipe(epochs=15, distill=0, batch_size=64),
        recipe=Recipe(
            align_steps=15, align_examples=1024, align_batch_size=128, epochs=8, batch_size=64
        ),
    )
