"""Convolutional guide to networks without any convolution (Network of Theseus: ResNet-18 to MLP).

Small, as it stands: a six-block ResNet trained once here on all of Fashion-MNIST; candidates are
given 6,000 images. The stem may stay: an MLP-Mixer's embedding is a convolution too. At full size:
set IMAGENET to a folder with train/ and val/, WEIGHTS to a checkpoint of torchvision's ResNet-18.
"""

from __future__ import annotations

from torchvision.models import resnet18

from nas_theseus import Guide, Recipe, SearchSpace, cut
from nas_theseus.blocks import MLP, BlockFamily, Identity, Keep, TokenMLP, choice
from nas_theseus.guide.networks import ResNet
from nas_theseus.tasks import Task, fashion_mnist, image_folder

IMAGENET: str | None = None
WEIGHTS: str | None = None
TRAIN_IMAGES = 6_000  # of Fashion-MNIST, for candidates; None for all 55,000


def space() -> SearchSpace:
    """What nas-theseus reads."""
    guide, task, blocks = small() if IMAGENET is None else full(IMAGENET)
    return SearchSpace(
        guide=guide,
        task=task,
        blocks=blocks,
        max_span=2,
        guide_training=Recipe(epochs=6, distill=0) if WEIGHTS is None else None,
        guide_task=fashion_mnist() if IMAGENET is None else None,
        recipe=Recipe(epochs=6, learning_rate=3e-3, align_examples=512),
    )


def small() -> tuple[Guide, Task, list[BlockFamily]]:
    """Guide, task and blocks for Fashion-MNIST."""
    network = ResNet(blocks=(2, 2, 2), width=16)
    task = fashion_mnist(train_images=TRAIN_IMAGES)
    keep = Keep().on("stem", "head")
    blocks = [TokenMLP(hidden=choice(64, 32, 128)), keep, Identity(), MLP(hidden=choice(0, 1.0))]
    return cut(network, network.cuts, inlet=(1, 32, 32)), task, blocks


def full(imagenet: str) -> tuple[Guide, Task, list[BlockFamily]]:
    """Guide, task and blocks for ImageNet."""
    at = ["maxpool", *(f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2))]
    guide = cut(resnet18(), at, inlet=(3, 224, 224), weights=WEIGHTS)
    keep = Keep().on("maxpool", "head")
    blocks = [TokenMLP(hidden=choice(256, 128, 512)), keep, Identity(), MLP(hidden=choice(0, 1.0))]
    return guide, image_folder(imagenet), blocks
