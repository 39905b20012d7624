"""Fashion-MNIST: a six-block ResNet as guide, convolutional and MLP blocks, searched pairing.

Needs the data set: torchvision's FashionMNIST files, or Debian's package dataset-fashion-mnist.
"""

from __future__ import annotations

import torch.nn.functional as F
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
from nas_theseus.tasks import fashion_mnist

TRAIN_IMAGES = 20_000  # None for all 55,000 (the other 5,000 are for validation)


class Residual(nn.Module):
    """Basic residual block. Source: He et al. 2016, figure 2."""

    def __init__(self, inlet: int, outlet: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inlet, outlet, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outlet)
        self.conv2 = nn.Conv2d(outlet, outlet, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outlet)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or inlet != outlet:
            self.skip = nn.Sequential(
                nn.Conv2d(inlet, outlet, 1, stride, bias=False), nn.BatchNorm2d(outlet)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(out + self.skip(x))


class FashionResNet(nn.Module):
    """Stem 32×32 to 16×16, two blocks each at 16, 8 and 4 pixels, head; 5.9 M MACs."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.block1 = Residual(width, width)
        self.block2 = Residual(width, width)
        self.block3 = Residual(width, 2 * width, stride=2)
        self.block4 = Residual(2 * width, 2 * width)
        self.block5 = Residual(2 * width, 4 * width, stride=2)
        self.block6 = Residual(4 * width, 4 * width)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.stem(x)))
        x = self.block4(self.block3(x))
        out: Tensor = self.head(self.block6(self.block5(x)))
        return out


def space() -> SearchSpace:
    """What nas-theseus reads."""
    at = ["stem", "block1", "block2", "block3", "block4", "block5", "block6"]
    return SearchSpace(
        guide=cut(FashionResNet(), at, inlet=(1, 32, 32)),
        task=fashion_mnist(train_images=TRAIN_IMAGES),
        blocks=[
            Keep(),
            Basic(width=choice(0.25, 0.5)),
            Bottleneck(ratio=choice(0.25, 0.5)),
            Depthwise(expand=choice(1, 2), kernel=choice(3, 5)),
            Pointwise(expand=choice(0.5, 1)),
            TokenMLP(hidden=choice(32, 64)),
            Linear(),
            Identity(),
        ],
        max_span=3,
        keep=["head"],
        guide_training=Recipe(epochs=8, distill=0),
        recipe=Recipe(epochs=3),
    )
