"""Blocks made of a convolutional part whose layers are factorised: depthwise, or of low rank.

Each factor is fitted to what the layer does on the guide's activations, so that the block is useful
before any training. They take any part: torch.nn's and libraries' own residual blocks alike.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nas_theseus.blocks.family import BlockFamily, Choice, block
from nas_theseus.blocks.pruning import gram, low_rank, low_rank_of_outputs, refit
from nas_theseus.blocks.reading import enough, norm_behind, rows_read, shift_outputs
from nas_theseus.errors import TransformError
from nas_theseus.guide.sublayers import linear
from nas_theseus.guide.tracing import evaluating
from nas_theseus.values.architecture import Hyperparameter

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_Map = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def SeparableConv(filters: Hyperparameter | Choice = 1) -> BlockFamily:
    """The guide's part, its k×k convolutions as depthwise ones and 1×1 ones behind them."""
    return replace(block(separable, "separable_conv", filters=filters), of_part=True)


def LowRankConv(
    rank: Hyperparameter | Choice = 0.5, split: Hyperparameter | Choice = "channels"
) -> BlockFamily:
    """The guide's part with convolutions of a lower rank, as a share of each one's smaller width.

    `split` is "channels" (k×k, then 1×1) or "space" (k×1, then 1×k).
    """
    return replace(block(low_rank_conv, "low_rank_conv", rank=rank, split=split), of_part=True)


def separable(part: nn.Module, features: Tensor, *, filters: int) -> nn.Module:
    """Replace k×k convolutions by depthwise and 1×1 ones where that is cheaper; changes `part`.

    Each channel gets the kernels by which its k×k weights are met best on the features; the 1×1
    convolution is then fitted to the outputs of the guide's convolution by least squares.

    Args:
        features: inputs of the part, shape (N, *inlet).
        filters: kernels of each channel.

    Raises:
        TransformError: no convolution of the part becomes cheaper.

    Source: Guo et al. 2018, arXiv:1808.05517 (a kernel's best depthwise-separable form by singular
    values); compare He et al. 2019, arXiv:1910.09455. The metric of the features and the refit as
    they are here are ours.
    """
    if filters < 1:
        raise TransformError(f"filters={filters} is no number of kernels; use 1 or more")

    def cheaper(layer: _Map) -> bool:
        outputs, taps = len(layer.weight), _taps(layer)
        return taps > 1 and filters * (taps + outputs) < outputs * taps

    if not _factorise(
        part, features, cheaper, lambda layer, data: _depthwise(layer, data, filters)
    ):
        raise TransformError(
            f"no k×k convolution of it becomes cheaper with filters={filters}; use fewer filters, "
            "or name the parts that have k×k convolutions without groups with .on(…)"
        )
    return part


def low_rank_conv(part: nn.Module, features: Tensor, *, rank: float, split: str) -> nn.Module:
    """Factorise convolutions and linear layers where that is cheaper; changes `part`.

    Args:
        features: inputs of the part, shape (N, *inlet).
        rank: channels between the two factors, as a share of the layer's smaller width.
        split: "channels" for k×k, then 1×1 (1×1 convolutions and linear layers, too); "space" for
            k×1, then 1×k.

    Raises:
        TransformError: no layer of the part becomes cheaper, or an option is unknown.

    Source: Zhang et al. 2015, arXiv:1505.06798 ("channels", without its nonlinearity); Jaderberg et
    al. 2014, arXiv:1405.3866 ("space"). The metric of the features and the refit of both are ours.
    """
    if split not in ("channels", "space"):
        raise TransformError(f"split={split!r} is unknown; use 'channels' or 'space'")
    if rank <= 0:
        raise TransformError(f"rank={rank} is no share above 0")

    def inside(layer: _Map) -> int:
        return max(1, round(rank * min(layer.weight.shape[:2])))

    def cheaper(layer: _Map) -> bool:
        outlet, inlet = layer.weight.shape[:2]
        if split == "channels":
            return inside(layer) * (inlet * _taps(layer) + outlet) < layer.weight.numel()
        if type(layer) is not nn.Conv2d or 1 in layer.kernel_size:
            return False
        (high, wide), step = layer.kernel_size, layer.stride[1]
        return inside(layer) * (inlet * high * step + outlet * wide) < layer.weight.numel()

    factors = _by_channels if split == "channels" else _by_space
    if not _factorise(
        part, features, cheaper, lambda layer, data: factors(layer, data, inside(layer))
    ):
        what = "convolution or linear layer" if split == "channels" else "k×k convolution"
        raise TransformError(
            f"no {what} without groups of it becomes cheaper at rank={rank}; use a smaller share, "
            "or name the parts that have such layers with .on(…)"
        )
    return part


@dataclass(frozen=True)
class _Data:
    """What a layer reads, and what it is to give.

    Attributes:
        rows: its inputs, shape (P, C, taps); P is 0 if there are too few to fit anything.
        goals: outputs wanted for them, without bias, shape (P, O).
        shifts: whether a constant that the outputs lack can be added behind the layer.
    """

    rows: Tensor
    goals: Tensor
    shifts: bool

    def centred(self, rows: Tensor) -> Tensor:
        """Rows (P, …) without their mean, if a shift makes up for it."""
        return rows - rows.mean(0) if self.shifts and len(rows) else rows

    def fitted(self, weight: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """A weight (O, H) refitted to the goals, and the shift that its outputs need.

        Args:
            inputs: what the weight reads for the rows, shape (P, H).
        """
        if enough(inputs, weight.shape[1]):
            weight = refit(weight, self.centred(inputs), self.centred(self.goals))
        if not self.shifts or not len(inputs):
            return weight, weight.new_zeros(len(weight))
        return weight, (self.goals - inputs @ weight.T).mean(0)


# The factors of a layer and the shift that their outputs need.
_Factors = tuple[nn.Sequential, Tensor]


def _factorise(
    part: nn.Module,
    features: Tensor,
    cheaper: Callable[[_Map], bool],
    factors: Callable[[_Map, _Data], _Factors],
) -> bool:
    """Replace those layers of a part that become cheaper, in place; whether there is one.

    Raises:
        TransformError: the part does not run with the factors.
    """
    whole, changed = copy.deepcopy(part), False
    for name, layer in list(part.named_modules()):
        if not isinstance(layer, _Map) or getattr(layer, "groups", 1) > 1 or not cheaper(layer):
            continue
        if not name:
            raise TransformError("it is a single layer; cut the guide at larger parts")
        norm = norm_behind(part, name)
        weight = layer.weight.detach().flatten(1)
        rows = rows_read(part, name, features)
        if not enough(rows, max(layer.weight.shape[:2])):
            rows = rows[:0]
        goals = rows_read(whole, name, features)[: len(rows)].flatten(1) @ weight.T
        data = _Data(rows, goals, norm is not None or layer.bias is not None)
        found, shift = factors(layer, data)
        shift_outputs(found[1], norm, shift)
        holder, _, last = name.rpartition(".")
        setattr(part.get_submodule(holder), last, found)
        changed = True
    if changed:
        _refuse_unless_equal_shapes(whole, part, features[:2])
    return changed


def _refuse_unless_equal_shapes(whole: nn.Module, part: nn.Module, features: Tensor) -> None:
    with evaluating(whole, part):
        try:
            same = part(features.clone()).shape == whole(features.clone()).shape
            said = "its outputs change their shape"
        except Exception as error:  # the user's module may raise anything
            same, said = False, f"{type(error).__name__}: {error}"
    if not same:
        raise TransformError(
            f"{type(whole).__name__} does not run with factors in place of its layers ({said}); "
            "does its forward read attributes of a layer?"
        )


def _depthwise(layer: _Map, data: _Data, filters: int) -> _Factors:
    """Depthwise kernels (C · filters), then a 1×1 convolution."""
    outlet, inlet = layer.weight.shape[:2]
    weight = layer.weight.detach().flatten(2).movedim(1, 0)
    rows = data.centred(data.rows)
    taps = rows.shape[2]
    if len(rows):
        products = torch.einsum("pct,pcs->cts", rows, rows).double()
    else:
        products = torch.eye(taps, dtype=torch.float64).expand(inlet, taps, taps)
    out, into = low_rank(weight, products, filters)
    inputs = torch.einsum("pct,cft->pcf", data.rows, into).flatten(1)
    last, shift = data.fitted(out.movedim(0, 1).reshape(outlet, -1), inputs)
    kernels = into.reshape(inlet * filters, 1, *layer.weight.shape[2:])
    return nn.Sequential(_like(layer, kernels, inlet), _pointwise(layer, last)), shift


def _by_channels(layer: _Map, data: _Data, inside: int) -> _Factors:
    """The layer itself with fewer outputs, then a map of each position."""
    weight, rows = layer.weight.detach().flatten(1), data.rows.flatten(1)
    out, into = _halves(weight, data.centred(rows), inside)
    last, shift = data.fitted(out, rows @ into.T)
    first = into.view(inside, *layer.weight.shape[1:])
    if isinstance(layer, nn.Linear):
        return nn.Sequential(linear(first), linear(last, _bias(layer))), shift
    return nn.Sequential(_like(layer, first, 1), _pointwise(layer, last)), shift


def _by_space(layer: _Map, data: _Data, inside: int) -> _Factors:
    """A k×1 convolution, then a 1×k one."""
    assert isinstance(layer, nn.Conv2d)
    outlet, inlet, high, wide = layer.weight.shape
    weight = layer.weight.detach().permute(0, 3, 1, 2).reshape(outlet * wide, inlet * high)
    columns = data.rows.view(-1, inlet, high, wide).permute(0, 3, 1, 2).flatten(2)
    out, into = _halves(weight, data.centred(columns).flatten(0, 1), inside)
    inputs = (columns @ into.T).transpose(1, 2).flatten(1)
    start = out.view(outlet, wide, inside).transpose(1, 2).flatten(1)
    last, shift = data.fitted(start, inputs)
    first, second = (
        nn.Conv2d(
            *widths,
            kernel_size=_along(layer.kernel_size, axis, 1),
            stride=_along(layer.stride, axis, 1),
            padding=_along(layer.padding, axis, 0),
            dilation=_along(layer.dilation, axis, 1),
            bias=axis == 1 and layer.bias is not None,
            padding_mode=layer.padding_mode,
        )
        for axis, widths in enumerate([(inlet, inside), (inside, outlet)])
    )
    first.weight = nn.Parameter(into.view(inside, inlet, high, 1).clone())
    second.weight = nn.Parameter(last.view(outlet, inside, 1, wide).clone())
    second.bias = _bias(layer)
    return nn.Sequential(first, second), shift


def _halves(weight: Tensor, rows: Tensor, inside: int) -> tuple[Tensor, Tensor]:
    """Factors (O, inside) and (inside, H) of a weight, for these inputs or for white noise."""
    outputs = rows @ weight.T if len(rows) else weight.T
    return low_rank_of_outputs(weight, gram(outputs), inside)


def _like(layer: _Map, weight: Tensor, groups: int) -> nn.Module:
    """A convolution of the same class, strides and padding, with another weight and no bias."""
    found = copy.deepcopy(layer)
    found.weight, found.bias = nn.Parameter(weight.clone()), None
    found.out_channels, found.in_channels = len(weight), weight.shape[1] * groups
    found.groups = groups
    return found


def _pointwise(layer: _Map, weight: Tensor) -> nn.Module:
    """A 1×1 convolution (O, C) with the layer's bias."""
    kind = next(kind for kind in _CONVOLUTIONS if isinstance(layer, kind))
    found = kind(weight.shape[1], len(weight), 1, bias=layer.bias is not None)
    found.weight = nn.Parameter(weight.view(*weight.shape, *[1] * (layer.weight.ndim - 2)).clone())
    found.bias = _bias(layer)
    return found


def _bias(layer: _Map) -> nn.Parameter | None:
    return None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())


def _along(values: str | tuple[int, ...], axis: int, other: int) -> Any:
    """The value of one axis, and another for the other axis; "same" and "valid" are of both."""
    if isinstance(values, str):
        return values
    return (values[0], other) if axis == 0 else (other, values[1])


def _taps(layer: _Map) -> int:
    return layer.weight[0, 0].numel()
