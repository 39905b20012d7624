"""A small task, and small convolutional and token networks for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.guide.chain import Guide
from nas_theseus.guide.cut import cut
from nas_theseus.guide.networks import ResNet, vision_transformer
from nas_theseus.stitching.anchors import Anchor
from nas_theseus.tasks import ImageTask, from_datasets


def _blobs(count: int, seed: int) -> list[tuple[Tensor, int]]:
    """Images of three classes, told apart by which third is bright."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 8, 9, generator=generator)
    labels = [i % 3 for i in range(count)]
    for image, label in zip(images, labels, strict=True):
        image[..., 3 * label : 3 * label + 3] += 2
    return [(image[..., :8].clone(), label) for image, label in zip(images, labels, strict=True)]


@pytest.fixture(scope="session")
def task() -> ImageTask:
    return from_datasets(_blobs(300, 0), _blobs(30, 1), inlet=(1, 8, 8), classes=3)


def resnet(width: int, seed: int, *blocks: int) -> Guide:
    torch.manual_seed(seed)
    network = ResNet(blocks, width, classes=3)
    guide = cut(network, network.cuts, (1, 8, 8))
    for norm in guide.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            norm.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return guide


def vit(width: int, seed: int, depth: int) -> Guide:
    torch.manual_seed(seed)
    network, cuts = vision_transformer(8, 2, 1, depth, 2, width, width, classes=3)
    nn.init.normal_(network.heads.head.weight)  # torchvision's begins with zeros
    return cut(network, cuts, (1, 8, 8))


@pytest.fixture
def anchors(task: ImageTask) -> list[Anchor]:
    """The larger one first: order is by MACs, not as given."""
    return [Anchor("large", resnet(8, 1, 2, 2), task), Anchor("small", resnet(4, 0, 1, 1), task)]
