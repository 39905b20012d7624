"""Inheritance of new blocks over tokens from the guide: its norms, and its MLP's hidden units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_theseus.conversion.stitch_layer import rows
from nas_theseus.guide.tracing import evaluating
from nas_theseus.transforms.layers import linear_map

# GELU's usual approximation differs by less than this from GELU itself.
_GELU_TOLERANCE = 2e-3


@dataclass(frozen=True)
class HiddenUnits:
    """The hidden layer of an MLP over channels: gelu(weight · norm(x) + bias).

    Attributes:
        norm: the layer norm before it.
        weight: shape (H, D).
        bias: shape (H,).
        importance: contribution of each unit to the MLP's output: its deviation over the sample
            times the norm of the weights that read it, shape (H,).
    """

    norm: nn.LayerNorm
    weight: Tensor
    bias: Tensor
    importance: Tensor


def inherit(block: nn.Module, parts: Iterable[nn.Module], inputs: Tensor) -> bool:
    """Start a block's layer norms and hidden units from those of the guide's parts, in place.

    Ours: a transformer layer does half of its work at each token alone, in an MLP that new blocks
    also have, but narrower. As many of the guide's most important units are copied as fit; further
    units stay random. The block's `last` has to be fitted afterwards.

    Args:
        block: block with a pre-norm MLP: an `nn.Sequential` named `mlp` of LayerNorm, Linear and
            GELU, optionally with a LayerNorm `norm` before its mixer.
        parts: guide parts that the block replaces, on its device.
        inputs: inputs of the first part, shape (N, T, D), in the block's basis.

    Returns:
        Whether anything was copied.
    """
    mlp = getattr(block, "mlp", None)
    if not (isinstance(mlp, nn.Sequential) and len(mlp) == 3):
        return False
    norm, up, activation = mlp
    if not (
        isinstance(norm, nn.LayerNorm)
        and isinstance(up, nn.Linear)
        and isinstance(activation, nn.GELU)
    ):
        return False
    first, units = None, None
    for part in parts:
        calls, inputs = _run(part, inputs)
        first = first or next((c.module for c in calls if isinstance(c.module, nn.LayerNorm)), None)
        units = hidden_units(calls) or units
    if units is None or units.weight.shape[1] != up.in_features:
        return False
    best = units.importance.argsort(descending=True)[: up.out_features]
    with torch.no_grad():
        up.weight[: len(best)] = units.weight[best]
        up.bias[: len(best)] = units.bias[best]
        _copy_norm(units.norm, norm)
        if first is not None:
            _copy_norm(first, getattr(block, "norm", None))
    return True


@dataclass(frozen=True)
class _Call:
    """One call of a layer, with its input and output."""

    module: nn.Module
    given: Tensor
    gave: Tensor


def hidden_units(calls: list[_Call]) -> HiddenUnits | None:
    """The last hidden layer of the form LayerNorm, linear, GELU, linear among calls in order.

    Layers are recognised by their inputs and outputs, not their names, so any library's work.
    """
    linear = [call for call in calls if _is_linear(call.module)]
    found = None
    for norm in calls:
        if not isinstance(norm.module, nn.LayerNorm):
            continue
        for up in linear:
            if up.given is not norm.gave:
                continue
            hidden = F.gelu(up.gave)
            for down in linear:
                if down.given.shape == hidden.shape and torch.allclose(
                    down.given, hidden, atol=_GELU_TOLERANCE
                ):
                    reads = _weight(down.module).norm(dim=0)
                    found = HiddenUnits(
                        norm.module,
                        _weight(up.module),
                        _bias(up.module),
                        rows(hidden).std(dim=0) * reads,
                    )
    return found


def _run(part: nn.Module, inputs: Tensor) -> tuple[list[_Call], Tensor]:
    """Run a part in eval mode, and record the calls of its norms and linear layers."""
    calls: list[_Call] = []
    with _noting(part, calls), evaluating(part):
        outputs: Tensor = part(inputs)
    return calls, outputs


@contextmanager
def _noting(part: nn.Module, calls: list[_Call]) -> Iterator[None]:
    hooks = [
        module.register_forward_hook(
            lambda module, given, gave: calls.append(_Call(module, given[0], gave))
        )
        for module in part.modules()
        if isinstance(module, nn.LayerNorm) or _is_linear(module)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _is_linear(module: nn.Module) -> bool:
    found = linear_map(module)
    return found is not None and not found.positions


def _weight(module: nn.Module) -> Tensor:
    """A linear layer's weight as (outlet, inlet)."""
    found = linear_map(module)
    weight: Tensor = module.weight.detach()  # type: ignore[operator]
    return weight if found is not None and found.writes == 0 else weight.T


def _bias(module: nn.Module) -> Tensor:
    bias = module.bias
    if isinstance(bias, Tensor):
        return bias.detach()
    return _weight(module).new_zeros(len(_weight(module)))


def _copy_norm(source: nn.LayerNorm, target: object) -> None:
    if isinstance(target, nn.LayerNorm) and target.normalized_shape == source.normalized_shape:
        target.eps = source.eps
        if source.weight is not None:
            target.weight.copy_(source.weight)
        if source.bias is not None:
            target.bias.copy_(source.bias)
