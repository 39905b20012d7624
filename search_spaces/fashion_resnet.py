"""Fashion-MNIST: a six-block ResNet as guide, convolutional and MLP blocks, searched pairing.

Needs the data set: torchvision's FashionMNIST files, or Debian's package dataset-fashion-mnist.
"""

from __future__ import annotations

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
from nas_theseus.guide.networks import ResNet
from nas_theseus.tasks import fashion_mnist

TRAIN_IMAGES = 20_000  # None for all 55,000 (the other 5,000 are for validation)


def space() -> SearchSpace:
    """What nas-theseus reads."""
    network = ResNet(blocks=(2, 2, 2), width=16)
    return SearchSpace(
        guide=cut(network, network.cuts, inlet=(1, 32, 32)),
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
