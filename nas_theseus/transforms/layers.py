"""Properties of layers and operations for transforms: which dimensions of weights are channels."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn
from torch.fx import Node

# Operations on single values: their result in one channel does not depend on other channels.
_ELEMENTWISE_FUNCTIONS = """
    relu relu_ relu6 leaky_relu elu selu celu gelu silu mish sigmoid sigmoid_ tanh tanh_ hardswish
    hardsigmoid hardtanh softplus softsign logsigmoid clamp clamp_ add add_ iadd sub sub_ isub
    rsub mul mul_ imul truediv div div_ itruediv neg pow square sqrt rsqrt exp abs maximum minimum
    dropout dropout1d dropout2d dropout3d feature_dropout contiguous clone detach float double
    stochastic_depth drop_path
"""
ELEMENTWISE_FUNCTIONS = frozenset(_ELEMENTWISE_FUNCTIONS.split())
_ELEMENTWISE_MODULES = """
    ReLU ReLU6 LeakyReLU ELU SELU CELU GELU SiLU Mish Sigmoid Tanh Hardswish Hardsigmoid Hardtanh
    Softplus Softsign LogSigmoid Softshrink Hardshrink Tanhshrink Threshold Identity Dropout
    Dropout1d Dropout2d Dropout3d FeatureAlphaDropout AlphaDropout StochasticDepth DropPath
"""
ELEMENTWISE_MODULES = frozenset(_ELEMENTWISE_MODULES.split())
ADDITIONS = frozenset({"add", "add_", "iadd", "sub", "sub_", "isub"})
# Operations that only move values; those in SPLITS return several tensors.
_MOVES = """
    flatten view reshape permute transpose squeeze unsqueeze swapaxes movedim moveaxis getitem cat
    concat unflatten expand stack narrow Flatten Unflatten
"""
MOVES = frozenset(_MOVES.split())
SPLITS = frozenset({"chunk", "split", "unbind", "tensor_split"})
REDUCTIONS = frozenset({"mean", "sum", "amax", "amin"})
# Operations on positions within each channel; names end in the number of dimensions.
_SPATIAL = re.compile(r"(?:adaptive_?)?(?:avg|max|lp)_?pool([123])d|\w*Pad([123])d", re.IGNORECASE)


@dataclass(frozen=True)
class LinearMap:
    """Dimensions of a layer's weight that write and read channels; number of positional ones."""

    writes: int
    reads: int
    positions: int


def linear_map(module: nn.Module) -> LinearMap | None:
    """Dimensions of a convolution's or linear layer's weight; None for other modules."""
    if isinstance(module, nn.Linear):
        return LinearMap(0, 1, 0)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return LinearMap(0, 1, len(module.kernel_size))
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return LinearMap(1, 0, len(module.kernel_size))
    return LinearMap(1, 0, 0) if is_transposed_linear(module) else None


def is_transposed_linear(module: nn.Module) -> bool:
    """Whether this is GPT-2's ``Conv1D`` of Hugging Face, a linear layer with weight (in, out)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def groups(module: nn.Module) -> int:
    """Groups of a convolution, 1 for other layers."""
    return int(getattr(module, "groups", 1))


def is_depthwise(module: nn.Module) -> bool:
    """Whether each channel has its own filters."""
    return groups(module) > 1 and groups(module) == getattr(module, "in_channels", None)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch or instance norm, which treats channels independently."""
    return isinstance(module, nn.modules.batchnorm._NormBase)


def normed_dimensions(module: nn.Module, rank: int) -> range:
    """Dimensions of its input that a layer or RMS norm takes its statistics over."""
    if "LayerNorm2d" in names_of_class(module):
        return range(1, 2)
    return range(rank - len(module.normalized_shape), rank)  # type: ignore[arg-type]


def names_of_class(module: nn.Module) -> set[str]:
    """Names of a module's class and its bases, to recognise libraries' own variants."""
    return {base.__name__ for base in type(module).__mro__}


def spatial_dimensions(name: str, rank: int) -> int | None:
    """Number of trailing dimensions that a pooling, padding or resizing works on; else None."""
    if name in ("interpolate", "Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d"):
        return rank - 2
    found = _SPATIAL.fullmatch(name)
    return int(found[1] or found[2]) if found else None


def function_name(node: Node) -> str:
    """The name of the function or method that a node calls."""
    return node.target if isinstance(node.target, str) else node.target.__name__


def resize(module: nn.Module) -> None:
    """Update a layer's attributes after its weights changed size."""
    weight = module._parameters.get("weight")
    if is_batch_norm(module):
        statistics = weight if weight is not None else module._buffers.get("running_mean")
        if statistics is not None:
            module.num_features = len(statistics)  # type: ignore[assignment]
    elif names_of_class(module) & {"LayerNorm", "RMSNorm"}:
        if weight is not None:
            module.normalized_shape = tuple(weight.shape)  # type: ignore[assignment]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif is_transposed_linear(module) and weight is not None:
        module.nx, module.nf = weight.shape  # type: ignore[assignment]
    elif (found := linear_map(module)) is not None and weight is not None:
        if is_depthwise(module):
            filters = module.out_channels // module.in_channels  # type: ignore[operator]
            module.groups = len(weight) // filters
        outlet, inlet = weight.shape[found.writes], weight.shape[found.reads]
        if found.writes == 0:
            inlet *= groups(module)
        else:
            outlet *= groups(module)
        module.out_channels, module.in_channels = outlet, inlet  # type: ignore[assignment]
