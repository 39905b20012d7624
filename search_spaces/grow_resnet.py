"""Fashion-MNIST: a small ResNet as guide, searched upwards and downwards.

Wider and deeper forms of the guide's blocks begin as what the guide computes and are not aligned;
narrower ones start from its most important channels. So the front holds networks that are better
and dearer than the guide beside cheaper ones.

Needs the data set: torchvision's FashionMNIST files, or Debian's package dataset-fashion-mnist.
"""

from __future__ import annotations

from nas_theseus import Recipe, SearchSpace, choice, cut
from nas_theseus.blocks import Identity, Keep
from nas_theseus.guide.networks import ResNet
from nas_theseus.tasks import fashion_mnist
from nas_theseus.transforms import Deeper, Narrower, Wider

TRAIN_IMAGES = 20_000  # None for all 55,000 (the other 5,000 are for validation)
# A network of your own: a safetensors file or checkpoint; the guide is then not trained here.
WEIGHTS: str | None = None


def space() -> SearchSpace:
    """What nas-theseus reads."""
    network = ResNet(blocks=(1, 1, 1), width=8)
    return SearchSpace(
        guide=cut(network, network.cuts, inlet=(1, 32, 32), weights=WEIGHTS),
        task=fashion_mnist(train_images=TRAIN_IMAGES),
        blocks=[
            Keep(),
            Wider(width=choice(2, 3), kernel=choice(0, 2)),
            Deeper(layers=choice(1, 2), width=choice(1, 2)),
            Narrower(width=choice(0.5, 0.25)),
            Identity(),
        ],
        keep=["stem", "head"],
        guide_training=Recipe(epochs=6, distill=0) if WEIGHTS is None else None,
        # The guide's logits cannot teach what is to be better than the guide.
        recipe=Recipe(epochs=3, distill=0, learning_rate=3e-3),
    )
