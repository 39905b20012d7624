"""What a layer inside a part reads: sampled patches of its inputs, and the norm behind it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nas_theseus.errors import CutError, TransformError
from nas_theseus.guide.tracing import evaluating, trace

# Examples that run through a part at once.
_CHUNK = 16
# With fewer examples only shapes are wanted.
FEWEST_EXAMPLES = 8
# Positions of a layer's output that are read: this many, or twice the inputs of one output if those
# are more. They are drawn from the examples that have _SPREAD times as many, at least _EXAMPLES.
_POSITIONS, _SPREAD, _EXAMPLES = 8192, 32, 64
_CONVOLUTIONS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def rows_read(part: nn.Module, layer: str, features: Tensor) -> Tensor:
    """What a layer reads for its output at positions that are drawn with a fixed seed.

    Padding is what the layer really does, whatever its class. Layers with the same output shape are
    read at the same positions.

    Args:
        part: the module around the layer; runs in eval mode.
        layer: name of a convolution (not transposed) or linear layer.
        features: inputs of the part, shape (N, *inlet).

    Returns:
        Shape (P, C, taps): all input channels at every tap of the kernel; one tap for a linear
        layer. P is 0 for fewer than 8 examples, where only shapes are wanted.

    Raises:
        TransformError: the layer does not compute with its own weight.
    """
    weight = part.get_submodule(layer)._parameters.get("weight")
    reading = _Reading(weight, len(features))
    with evaluating(part):
        for chunk in torch.split(features, _CHUNK):
            with reading:
                part(chunk.clone())  # a part may begin with an activation in place
            if reading.finished:
                break
    if not reading.rows:
        raise TransformError(
            f"{layer!r} does not run, or not with its own weight, as with weight standardisation "
            "or a parametrization; name other parts with .on(…)"
        )
    rows = torch.cat(reading.rows)
    return rows if len(features) >= FEWEST_EXAMPLES else rows[:0]


def enough(rows: Tensor, inputs: int) -> bool:
    """Whether there are more rows than a map of this many inputs has weights to fit."""
    return len(rows) > inputs


def norm_behind(part: nn.Module, layer: str) -> nn.modules.batchnorm._BatchNorm | None:
    """The batch norm with fixed statistics that alone reads a layer's output; None without one.

    Layers and norms that run several times have none.
    """
    try:
        traced = trace(part)
    except CutError:
        return None
    node = traced.last_of.get(layer)
    users = list(node.users) if node is not None else []
    if len(users) != 1 or users[0].op != "call_module":
        return None
    called = [str(each.target) for each in traced.nodes if each.op == "call_module"]
    found = part.get_submodule(str(users[0].target))
    if max(called.count(layer), called.count(str(users[0].target))) > 1:
        return None
    if isinstance(found, nn.modules.batchnorm._BatchNorm) and found.running_mean is not None:
        return found
    return None


def output_shares(norm: nn.modules.batchnorm._BatchNorm | None, width: int) -> Tensor:
    """What a squared error of each output counts behind a norm, γ² / (σ² + ε); shape (width,)."""
    if norm is None or norm.running_var is None:
        return torch.ones(width, dtype=torch.float64)
    scale = 1.0 if norm.weight is None else norm.weight.detach().double().square()
    shares: Tensor = scale / (norm.running_var.double() + norm.eps)
    return shares


def shift_outputs(
    layer: nn.Module, norm: nn.modules.batchnorm._BatchNorm | None, shift: Tensor
) -> None:
    """Add a shift (O,) to a layer's outputs by its bias or, without one, by the norm behind it."""
    with torch.no_grad():
        if (bias := getattr(layer, "bias", None)) is not None:
            bias += shift
        elif norm is not None and norm.running_mean is not None:
            norm.running_mean -= shift


class _Reading(TorchFunctionMode):
    """Watches for convolutions and linear maps with one weight, and samples what they read."""

    def __init__(self, weight: Tensor | None, examples: int) -> None:
        super().__init__()
        self.rows: list[Tensor] = []
        self.finished = False
        self._weight, self._examples = weight, examples
        self._generator = torch.Generator().manual_seed(0)
        self._seen = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.linear or func in _CONVOLUTIONS:
            given = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
            if self._weight is not None and given["weight"] is self._weight:
                read = given["input"] if func is F.linear else _patches(given)
                self._sample(read, self._weight)
        return func(*args, **kwargs)

    def _sample(self, read: Tensor, weight: Tensor) -> None:
        """Rows of a tensor (N, positions…, C, taps…)."""
        leading = read.ndim - (weight.ndim - 1)
        shape = read.shape[:leading]
        each = math.prod(shape[1:])
        wanted = max(_POSITIONS, 2 * weight[0].numel())
        used = min(self._examples, max(_EXAMPLES, math.ceil(_SPREAD * wanted / each)))
        share = min(1.0, wanted / (used * each))
        drawn = torch.randperm(len(read) * each, generator=self._generator)
        drawn = drawn[: max(1, round(share * len(drawn)))].sort().values
        rows = read[torch.unravel_index(drawn, shape)]
        self.rows.append(rows.reshape(len(rows), read.shape[leading], -1))
        self._seen += len(read)
        self.finished = self._seen >= used


def _patches(given: Mapping[str, Any]) -> Tensor:
    """The inputs (N, positions…, C, taps…) of a convolution's arguments, without copying them."""
    x, kernel = given["input"], given["weight"].shape[2:]
    axes = len(kernel)
    stride, dilation = (_each(given.get(name, 1), axes) for name in ("stride", "dilation"))
    reach = [rate * (size - 1) + 1 for rate, size in zip(dilation, kernel, strict=True)]
    padding = given.get("padding", 0)
    if padding == "same":
        before = [(size - 1) // 2 for size in reach]
        after = [(size - 1) - (size - 1) // 2 for size in reach]
    else:
        before = after = _each(0 if padding == "valid" else padding, axes)
    x = F.pad(x, [n for pair in reversed(list(zip(before, after, strict=True))) for n in pair])
    for axis in range(axes):
        x = x.unfold(2 + axis, reach[axis], stride[axis])[..., :: dilation[axis]]
    return x.movedim(1, 1 + axes)


def _each(value: Any, axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value)
