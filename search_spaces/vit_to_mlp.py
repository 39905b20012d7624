"""Vision transformer to networks without attention (Network of Theseus: ViT to token-wise MLP).

Small, as it stands: Fashion-MNIST and a four-layer transformer, trained once here on all of it;
candidates are given 6,000 images. At full size: set IMAGENET to a folder with train/ and val/,
WEIGHTS to a checkpoint of torchvision's ViT-B/16.
"""

from __future__ import annotations

from torchvision.models import vit_b_16

from nas_theseus import Guide, Recipe, SearchSpace, cut
from nas_theseus.blocks import BlockFamily, Identity, Keep, TokenMLP, choice
from nas_theseus.guide.networks import vision_transformer
from nas_theseus.tasks import Task, fashion_mnist, image_folder

IMAGENET: str | None = None
WEIGHTS: str | None = None
TRAIN_IMAGES = 6_000  # of Fashion-MNIST, for candidates; None for all 55,000


def space() -> SearchSpace:
    """What nas-theseus reads."""
    guide, task, blocks = small() if IMAGENET is None else full(IMAGENET)
    embedding, head = guide.names[0], guide.names[-1]
    return SearchSpace(
        guide=guide,
        task=task,
        blocks=[Keep().on(embedding, head), *blocks, Identity()],
        max_span=2,
        keep=[embedding, head],
        guide_training=Recipe(epochs=6, learning_rate=2e-3, distill=0) if WEIGHTS is None else None,
        guide_task=fashion_mnist() if IMAGENET is None else None,
        recipe=Recipe(epochs=6, align_examples=512),
    )


def small() -> tuple[Guide, Task, list[BlockFamily]]:
    """Guide, task and blocks for Fashion-MNIST."""
    network, at = vision_transformer()
    task = fashion_mnist(train_images=TRAIN_IMAGES)
    return cut(network, at, inlet=(1, 32, 32)), task, [TokenMLP(hidden=choice(64, 32, 128))]


def full(imagenet: str) -> tuple[Guide, Task, list[BlockFamily]]:
    """Guide, task and blocks for ImageNet."""
    at = ["encoder.dropout", *(f"encoder.layers.encoder_layer_{i}" for i in range(12))]
    guide = cut(vit_b_16(), at, inlet=(3, 224, 224), weights=WEIGHTS)
    return guide, image_folder(imagenet), [TokenMLP(hidden=choice(512, 256, 1024))]
