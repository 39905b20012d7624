"""Inheritance of new blocks over tokens from the guide: its norms, and its MLP's hidden units."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_theseus.blocks.units import GatedUnits
from nas_theseus.guide.hidden_units import (
    HiddenUnits,
    Norm,
    RMSNorm,
    hidden_units,
    norms,
    recorded,
)


@dataclass(frozen=True)
class _Place:
    """Where a block has hidden units of the guide's form.

    Attributes:
        norm: the norm before them.
        up: linear map to the units.
        gated: the gated units that `up` belongs to; None for plain ones.
        reads_inlet: whether they read the block's inputs rather than a mixer's outputs.
    """

    norm: nn.Module
    up: nn.Linear
    gated: GatedUnits | None
    reads_inlet: bool


def inherit(block: nn.Module, parts: Iterable[nn.Module], inputs: Tensor) -> bool:
    """Start a block's norms and hidden units from those of the guide's parts, in place.

    Ours: a transformer layer does half of its work at each token alone, in an MLP that new blocks
    also have, but narrower. As many of the guide's most important units are copied as fit; further
    units stay random. The block's `last` has to be fitted afterwards.

    Args:
        block: block with a pre-norm MLP: an `nn.Sequential` named `mlp` of a norm and hidden units,
            optionally with a norm named `norm` before its mixer; or with hidden units as its mixer,
            which start from an MLP that reads the parts' inputs, as a sublayer's does. Units are
            Linear and GELU, or `GatedUnits`; norms are of layer or RMS norm (`values.style`).
        parts: guide parts that the block replaces, on its device.
        inputs: inputs of the first part, shape (N, T, D), in the block's basis.

    Returns:
        Whether anything was copied.
    """
    place = _place(block)
    if place is None:
        return False
    first: Norm | None = None
    units, begun = None, inputs
    for part in parts:
        calls, inputs = recorded(part, inputs)
        first = first or next((norm for norm, _ in norms(calls)), None)
        units = hidden_units(calls) or units
    if units is None or not _fits(place, units, begun):
        return False
    best = units.importance.argsort(descending=True)[: place.up.out_features]
    with torch.no_grad():
        _copy(place.up, units.weight[best], units.bias[best])
        if place.gated is not None and units.gate is not None:
            _copy(place.gated.gate, units.gate.weight[best], units.gate.bias[best])
        _copy_norm(units.norm, place.norm)
        if first is not None and not place.reads_inlet:
            _copy_norm(first, getattr(block, "norm", None))
    return True


def _place(block: nn.Module) -> _Place | None:
    """The hidden units of a block that can be inherited; None if it has none."""
    mlp = getattr(block, "mlp", None)
    if isinstance(mlp, nn.Sequential) and len(mlp) > 1:
        return _place_of(mlp[0], list(mlp)[1:], reads_inlet=False)
    norm, mixer = getattr(block, "norm", None), getattr(block, "mixer", None)
    if isinstance(norm, nn.Module) and isinstance(mixer, nn.Sequential):
        return _place_of(norm, list(mixer), reads_inlet=True)
    return None


def _place_of(norm: nn.Module, units: list[nn.Module], reads_inlet: bool) -> _Place | None:
    if not isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        return None
    match units:
        case [nn.Linear() as up, nn.GELU()]:
            return _Place(norm, up, None, reads_inlet)
        case [GatedUnits() as gated]:
            return _Place(norm, gated.up, gated, reads_inlet)
    return None


def _fits(place: _Place, units: HiddenUnits, inputs: Tensor) -> bool:
    """Whether the guide's units have the form and the width of the block's."""
    gate = None if place.gated is None else place.gated.kind
    given = None if units.gate is None else units.gate.kind
    kind = nn.RMSNorm if isinstance(units.norm, RMSNorm) else nn.LayerNorm
    same = given == gate and isinstance(place.norm, kind)
    if not same or units.weight.shape[1] != place.up.in_features:
        return False
    return not place.reads_inlet or torch.equal(units.given, inputs)


def _copy(up: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    up.weight[: len(weight)] = weight
    up.bias[: len(bias)] = bias


def _copy_norm(source: Norm, target: object) -> None:
    if isinstance(source, RMSNorm):
        if isinstance(target, nn.RMSNorm) and target.weight.shape == source.weight.shape:
            target.eps = source.epsilon
            target.weight.copy_(source.weight)
    elif isinstance(target, nn.LayerNorm) and target.normalized_shape == source.normalized_shape:
        target.eps = source.eps
        if source.weight is not None:
            target.weight.copy_(source.weight)
        if source.bias is not None:
            target.bias.copy_(source.bias)
