"""The families of target blocks, and `block` and `choice` to declare your own.

blocks=[Keep(), Depthwise(expand=choice(1, 2, 4)), block(MyModule, hidden=choice(32, 64))]
"""

from __future__ import annotations

from nas_theseus.blocks.attention import LinearAttentionBlock, SelfAttentionBlock
from nas_theseus.blocks.conv import (
    BasicResidual,
    BottleneckResidual,
    ConvBlock,
    DepthwiseSeparable,
    PointwiseNet,
)
from nas_theseus.blocks.family import (
    BlockFamily,
    Choice,
    Keep,
    block,
    choice,
    downsampling,
    scaled_width,
)
from nas_theseus.blocks.linear_mixers import AttentionToLinear, AttentionToRecurrence
from nas_theseus.blocks.mlp import PooledMLP, TokenMixer
from nas_theseus.blocks.of_convolutions import LowRankConv, SeparableConv
from nas_theseus.blocks.of_sublayers import (
    FewerHeads,
    FewerKeyValueHeads,
    LinearPart,
    LowRank,
    NarrowMLP,
    SlidingWindow,
)
from nas_theseus.blocks.recurrent import GRUBlock, MinimalRNNBlock
from nas_theseus.blocks.sequence import CausalConvBlock, CausalTokenMLPBlock, ChannelMLPBlock
from nas_theseus.blocks.simple import IdentityBlock, LinearBlock, PoolBlock
from nas_theseus.blocks.skipping import SkipPart
from nas_theseus.values.architecture import Hyperparameter

__all__ = [
    "GRU",
    "MLP",
    "AttentionToLinear",
    "AttentionToRecurrence",
    "Basic",
    "BlockFamily",
    "Bottleneck",
    "CausalConv",
    "CausalTokenMLP",
    "ChannelMLP",
    "ConvBlock",
    "Depthwise",
    "FewerHeads",
    "FewerKeyValueHeads",
    "Identity",
    "Keep",
    "Linear",
    "LinearAttention",
    "LinearPart",
    "LowRank",
    "LowRankConv",
    "MinimalRNN",
    "NarrowMLP",
    "Pointwise",
    "Pool",
    "SelfAttention",
    "SeparableConv",
    "SkipPart",
    "SlidingWindow",
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
    """MLP over positions, then channels (a mixer), on maps or tokens; reads later tokens."""
    return block(TokenMixer, "token_mlp", hidden=hidden)


def CausalTokenMLP(hidden: Hyperparameter | Choice = 1.0) -> BlockFamily:
    """Triangular map over tokens, then MLP, hidden width as a multiple of the inlet's."""
    return block(CausalTokenMLPBlock, "causal_token_mlp", hidden=hidden)


def ChannelMLP(hidden: Hyperparameter | Choice = 1.0) -> BlockFamily:
    """The same MLP at every token, hidden width as a multiple of the inlet's."""
    return block(ChannelMLPBlock, "channel_mlp", hidden=hidden)


def CausalConv(
    kernel: Hyperparameter | Choice = 4, expand: Hyperparameter | Choice = 2.0
) -> BlockFamily:
    """Causal depthwise convolution over tokens, then MLP, `expand` times as wide as the inlet."""
    return block(CausalConvBlock, "causal_conv", kernel=kernel, expand=expand)


def SelfAttention(
    heads: Hyperparameter | Choice = 4,
    mlp: Hyperparameter | Choice = 4.0,
    causal: Hyperparameter | Choice = False,
) -> BlockFamily:
    """Self-attention, then MLP, `mlp` times as wide as the inlet; use causal=True for text."""
    return block(SelfAttentionBlock, "self_attention", heads=heads, mlp=mlp, causal=causal)


def LinearAttention(
    heads: Hyperparameter | Choice = 4,
    mlp: Hyperparameter | Choice = 4.0,
    causal: Hyperparameter | Choice = False,
) -> BlockFamily:
    """Linear attention (gated if causal), then MLP; use causal=True for text."""
    return block(LinearAttentionBlock, "linear_attention", heads=heads, mlp=mlp, causal=causal)


def GRU(hidden: Hyperparameter | Choice = 1.0, mlp: Hyperparameter | Choice = 0.0) -> BlockFamily:
    """GRU, `hidden` times as wide as the inlet, then an MLP unless `mlp` is 0."""
    return block(GRUBlock, "gru", hidden=hidden, mlp=mlp)


def MinimalRNN(
    hidden: Hyperparameter | Choice = 1.0,
    kernel: Hyperparameter | Choice = 0,
    mlp: Hyperparameter | Choice = 0.0,
) -> BlockFamily:
    """minGRU, after a causal convolution unless `kernel` is 0, before an MLP unless `mlp` is 0."""
    return block(MinimalRNNBlock, "minimal_rnn", hidden=hidden, kernel=kernel, mlp=mlp)


def MLP(hidden: Hyperparameter | Choice = 1.0) -> BlockFamily:
    """Pooled MLP to a vector: replaces the head, or a span that ends with it."""
    return block(PooledMLP, "mlp", hidden=hidden)


def Linear() -> BlockFamily:
    """A bare linear map per position."""
    return block(LinearBlock, "linear")


def Identity() -> BlockFamily:
    """Removes the span; inlet and outlet must be equal."""
    return block(IdentityBlock, "identity")


def Pool() -> BlockFamily:
    """Average pooling; changes only the map's size."""
    return block(PoolBlock, "pool")
