"""Target blocks by family, and `block` and `choice` to declare one's own.

blocks=[Keep(), Depthwise(expand=choice(1, 2, 4)), block(MyModule, hidden=choice(32, 64))]
"""

from __future__ import annotations

from nas_theseus.blocks.base import (
    BlockFamily,
    Choice,
    Keep,
    block,
    choice,
    downsampling,
    scaled_width,
)
from nas_theseus.blocks.conv import (
    BasicResidual,
    BottleneckResidual,
    ConvBlock,
    DepthwiseSeparable,
    PointwiseNet,
)
from nas_theseus.blocks.mlp import PooledMLP, TokenMixer
from nas_theseus.blocks.simple import IdentityBlock, LinearBlock, PoolBlock
from nas_theseus.values import Hyperparameter

__all__ = [
    "MLP",
    "Basic",
    "BlockFamily",
    "Bottleneck",
    "ConvBlock",
    "Depthwise",
    "Identity",
    "Keep",
    "Linear",
    "Pointwise",
    "Pool",
    "TokenMLP",
    "block",
    "choice",
    "downsampling",
    "scaled_width",
]


def Basic(width: Hyperparameter | Choice = 1.0) -> BlockFamily:
    """Basic residual block, hidden width as a multiple of the outlet's."""
    return block(BasicResidual, "basic", width=width)


def Bottleneck(ratio: Hyperparameter | Choice = 0.5) -> BlockFamily:
    """Bottleneck residual block, inner width as a share of the outlet's."""
    return block(BottleneckResidual, "bottleneck", ratio=ratio)


def Depthwise(
    expand: Hyperparameter | Choice = 1.0, kernel: Hyperparameter | Choice = 3
) -> BlockFamily:
    """Depthwise-separable block, hidden width as a multiple of the inlet's."""
    return block(DepthwiseSeparable, "depthwise", expand=expand, kernel=kernel)


def Pointwise(expand: Hyperparameter | Choice = 1.0) -> BlockFamily:
    """Two 1×1 convolutions, hidden width as a multiple of the outlet's."""
    return block(PointwiseNet, "pointwise", expand=expand)


def TokenMLP(hidden: Hyperparameter | Choice = 64) -> BlockFamily:
    """Position and channel MLP (a mixer), on maps or tokens of any size."""
    return block(TokenMixer, "token_mlp", hidden=hidden)


def MLP(hidden: Hyperparameter | Choice = 1.0) -> BlockFamily:
    """Pooled MLP to a vector: replaces the head, or a last span with it."""
    return block(PooledMLP, "mlp", hidden=hidden)


def Linear() -> BlockFamily:
    """A bare linear map per position."""
    return block(LinearBlock, "linear")


def Identity() -> BlockFamily:
    """Drops the span; inlet and outlet must agree."""
    return block(IdentityBlock, "identity")


def Pool() -> BlockFamily:
    """Average pooling; only the map's size may change."""
    return block(PoolBlock, "pool")
