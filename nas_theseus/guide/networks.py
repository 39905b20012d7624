"""Networks ready to use as guides: residual networks and a small vision transformer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock as TorchvisionBlock
from torchvision.models.resnet import ResNet as TorchvisionResNet
from torchvision.models.vision_transformer import VisionTransformer

from nas_theseus.errors import CutError


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a skip. Source: He et al. 2016, figure 2."""

    def __init__(self, inlet: int, outlet: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inlet, outlet, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outlet)
        self.conv2 = nn.Conv2d(outlet, outlet, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outlet)
        self.skip = _skip(inlet, outlet, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(out + self.skip(x))


class BottleneckBlock(nn.Module):
    """1×1 to a quarter of the outlet's width, 3×3, 1×1 back. Source: He et al. 2016, figure 5."""

    def __init__(self, inlet: int, outlet: int, stride: int = 1) -> None:
        super().__init__()
        inner = max(1, outlet // 4)
        self.conv1 = nn.Conv2d(inlet, inner, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outlet, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outlet)
        self.skip = _skip(inlet, outlet, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        out = self.norm3(self.conv3(F.relu(self.norm2(self.conv2(out)))))
        return F.relu(out + self.skip(x))


def _skip(inlet: int, outlet: int, stride: int) -> nn.Module:
    if stride == 1 and inlet == outlet:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inlet, outlet, 1, stride, bias=False), nn.BatchNorm2d(outlet))


class ResNet(nn.Module):
    """A residual network for small images: `stem`, `block1` … `blockN`, `head`, one part each.

    The stem and the first block of every stage except the first halve the image; widths double
    from stage to stage. Source: He et al. 2016, section 4.2.

    Args:
        blocks: number of blocks of each stage.
        width: width of the stem and the first stage; four times as much with bottleneck blocks.
        channels: number of image channels.
        bottleneck: use bottleneck blocks instead of basic ones.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (2, 2, 2),
        width: int = 16,
        channels: int = 1,
        classes: int = 10,
        *,
        bottleneck: bool = False,
    ) -> None:
        super().__init__()
        kind = BottleneckBlock if bottleneck else BasicBlock
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.cuts = ["stem"]
        inlet = width
        for stage, count in enumerate(blocks):
            outlet = width * 2**stage * (4 if bottleneck else 1)
            for place in range(count):
                stride = 2 if stage and not place else 1
                self.cuts.append(f"block{len(self.cuts)}")
                self.add_module(self.cuts[-1], kind(inlet, outlet, stride))
                inlet = outlet
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inlet, classes))

    def forward(self, x: Tensor) -> Tensor:
        for name in self.cuts:
            x = self.get_submodule(name)(x)
        out: Tensor = self.head(x)
        return out


def vision_transformer(
    image: int = 32,
    patch: int = 4,
    channels: int = 1,
    depth: int = 4,
    heads: int = 4,
    width: int = 64,
    mlp: int = 128,
    classes: int = 10,
) -> tuple[VisionTransformer, list[str]]:
    """Torchvision's vision transformer for images with any number of channels.

    Returns:
        The network, and the names to cut after: the embedding, then each encoder layer.
    """
    network = VisionTransformer(image, patch, depth, heads, width, mlp, num_classes=classes)
    network.conv_proj = nn.Conv2d(channels, width, patch, patch)
    nn.init.trunc_normal_(network.conv_proj.weight, std=(channels * patch**2) ** -0.5)
    layers = [f"encoder.layers.encoder_layer_{index}" for index in range(depth)]
    return network, ["encoder.dropout", *layers]


# ResNet(x,x,x,x) with one or two blocks a stage. Source: Hernandez et al. 2023, section 1.2.
SMALL_RESNETS = tuple("resnet" + "".join(map(str, x)) for x in itertools.product((1, 2), repeat=4))
_TORCHVISION = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
READY = (*SMALL_RESNETS, *_TORCHVISION)


def ready_network(
    name: str, channels: int = 3, classes: int = 10, width: int = 64
) -> tuple[nn.Module, list[str]]:
    """An untrained network by name, and the names to cut after: the stem, then every block.

    Args:
        name: one of `READY`: ``resnet1212`` is `ResNet` with 1, 2, 1 and 2 blocks in its stages,
            ``resnet18`` and ``resnet34`` are torchvision's.
        channels: number of image channels.
        width: width of the first stage; ignored for torchvision's networks, which have 64.

    Raises:
        CutError: no network has this name.
    """
    if name in SMALL_RESNETS:
        network = ResNet(tuple(map(int, name.removeprefix("resnet"))), width, channels, classes)
        return network, network.cuts
    if name not in _TORCHVISION:
        raise CutError(
            f"unknown network {name!r}: use SPACE.py, resnet18, resnet34, or resnet followed by "
            "four numbers of blocks, each 1 or 2 (resnet1212)"
        )
    blocks = _TORCHVISION[name]
    large = TorchvisionResNet(TorchvisionBlock, list(blocks), num_classes=classes)
    if channels != 3:
        large.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        nn.init.kaiming_normal_(large.conv1.weight, mode="fan_out", nonlinearity="relu")
    layers = [f"layer{n}.{i}" for n, count in enumerate(blocks, start=1) for i in range(count)]
    return large, ["maxpool", *layers]
