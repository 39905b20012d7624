"""Deep bottleneck guide to shallow basic blocks, the pairing searched (ResNet-50 to ResNet-18).

Each basic block stands for one to three bottleneck blocks, and its outlet has a quarter or half of
the bottleneck's width, as in ResNet-18 (free boundary widths); the head follows.

Small, as it stands: Fashion-MNIST and a nine-block bottleneck net, trained once here on all of it;
candidates are given 20,000 images. At full size: set IMAGENET to a folder with train/ and val/,
WEIGHTS to a checkpoint of torchvision's ResNet-50.
"""

from __future__ import annotations

from torchvision.models import resnet50

from nas_theseus import Guide, Recipe, SearchSpace, cut
from nas_theseus.blocks import MLP, Basic, Keep, choice
from nas_theseus.guide.networks import ResNet
from nas_theseus.tasks import Task, fashion_mnist, image_folder

IMAGENET: str | None = None
WEIGHTS: str | None = None
TRAIN_IMAGES = 20_000  # of Fashion-MNIST, for candidates; None for all 55,000


def space() -> SearchSpace:
    """What nas-theseus reads."""
    guide, task = small() if IMAGENET is None else full(IMAGENET)
    return SearchSpace(
        guide=guide,
        task=task,
        blocks=[Keep().on(guide.names[0]), Basic(width=choice(1, 0.5)), MLP(hidden=0).on("head")],
        max_span=3,
        widths=(0.25, 0.5),
        keep=[guide.names[0]],
        guide_training=Recipe(epochs=4, distill=0) if WEIGHTS is None else None,
        guide_task=fashion_mnist() if IMAGENET is None else None,
        recipe=Recipe(epochs=4),
    )


def small() -> tuple[Guide, Task]:
    """Guide and task for Fashion-MNIST."""
    network = ResNet(blocks=(3, 3, 3), width=16, bottleneck=True)
    task = fashion_mnist(train_images=TRAIN_IMAGES)
    return cut(network, network.cuts, inlet=(1, 32, 32)), task


def full(imagenet: str) -> tuple[Guide, Task]:
    """Guide and task for ImageNet."""
    depths = {1: 3, 2: 4, 3: 6, 4: 3}
    blocks = [f"layer{stage}.{block}" for stage, count in depths.items() for block in range(count)]
    guide = cut(resnet50(), ["maxpool", *blocks], inlet=(3, 224, 224), weights=WEIGHTS)
    return guide, image_folder(imagenet)
