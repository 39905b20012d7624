"""Find the norms and the MLP's hidden units of a guide's part, whichever library it comes from.

Layers are recognised by their inputs and outputs while the part runs, not by their names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_theseus.guide.tracing import evaluating
from nas_theseus.values.style import PLAIN, Gate, Style

# GELU's usual approximation differs by less than this from GELU itself.
_GELU_TOLERANCE = 2e-3
# Relative error within which gated units and RMS norms are recognised; the same approximation
# differs by less from GELU over all units.
_RELATIVE = 5e-3
_EPSILONS = ("variance_epsilon", "eps", "epsilon")
_GATES: dict[Gate, type[nn.Module]] = {"silu": nn.SiLU, "gelu": nn.GELU}


@dataclass(frozen=True)
class RMSNorm:
    """An RMS norm: x / √(mean x² + epsilon) · weight, with weight of shape (D,)."""

    weight: Tensor
    epsilon: float


Norm = nn.LayerNorm | RMSNorm


@dataclass(frozen=True)
class GateMap:
    """The map to gates, activation(weight x + bias), with weight (H, D) and bias (H,)."""

    kind: Gate
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class HiddenUnits:
    """The hidden layer of an MLP over channels: gelu(weight · norm(x) + bias), or gated.

    Gated units are gate(norm(x)) · (weight · norm(x) + bias).

    Attributes:
        norm: the norm before it.
        weight: shape (H, D).
        bias: shape (H,).
        importance: contribution of each unit to the MLP's output: its deviation over the sample
            times the norm of the weights that read it, shape (H,).
        given: the input of the norm, shape (N, T, D).
        gate: None for plain units.
    """

    norm: Norm
    weight: Tensor
    bias: Tensor
    importance: Tensor
    given: Tensor
    gate: GateMap | None = None


@dataclass(frozen=True)
class Call:
    """One call of a layer, with its input and output."""

    module: nn.Module
    given: Tensor
    gave: Tensor


def recorded(part: nn.Module, inputs: Tensor) -> tuple[list[Call], Tensor]:
    """Run a part in eval mode, and record the calls of its norms and linear layers, in order."""
    calls: list[Call] = []
    with _recording(part, calls), evaluating(part):
        outputs: Tensor = part(inputs)
    return calls, outputs


def norms(calls: Iterable[Call]) -> Iterator[tuple[Norm, Call]]:
    """The layer norms and RMS norms among calls."""
    for call in calls:
        if isinstance(call.module, nn.LayerNorm):
            yield call.module, call
        elif not is_linear(call.module) and (norm := _rms_norm(call)) is not None:
            yield norm, call


def hidden_units(calls: Sequence[Call]) -> HiddenUnits | None:
    """The last hidden layer among calls, of the form norm, linear, GELU or gate, linear."""
    linear = [call for call in calls if is_linear(call.module)]
    found = None
    for norm, call in norms(calls):
        ups = [up for up in linear if up.given is call.gave]
        # Gated ones first: small ones may pass for plain ones, which have an absolute tolerance.
        found = _gated(norm, call, ups, linear) or _plain(norm, call, ups, linear) or found
    return found


def style_of(parts: Iterable[nn.Module], inputs: Tensor) -> Style:
    """The norm and hidden units of the first MLP in a chain of parts; plain if there is none.

    Args:
        inputs: inputs of the first part, shape (N, *inlet).
    """
    for part in parts:
        calls, inputs = recorded(part, inputs)
        units = hidden_units(calls)
        if units is not None:
            epsilon = units.norm.epsilon if isinstance(units.norm, RMSNorm) else None
            return Style(epsilon, None if units.gate is None else units.gate.kind)
    return PLAIN


def is_linear(module: nn.Module) -> bool:
    """Whether this is a linear layer, of torch or GPT-2's ``Conv1D`` of Hugging Face."""
    return isinstance(module, nn.Linear) or _is_transposed(module)


def _is_transposed(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _plain(
    norm: Norm, call: Call, ups: Sequence[Call], linear: Sequence[Call]
) -> HiddenUnits | None:
    """The last plain GELU units behind a norm."""
    found = None
    for up in ups:
        hidden = F.gelu(up.gave)
        for down in linear:
            if down.given.shape == hidden.shape and torch.allclose(
                down.given, hidden, atol=_GELU_TOLERANCE
            ):
                importance = _importance(hidden, down)
                weight, bias = _weight(up.module), _bias(up.module)
                found = HiddenUnits(norm, weight, bias, importance, call.given)
    return found


def _gated(
    norm: Norm, call: Call, ups: Sequence[Call], linear: Sequence[Call]
) -> HiddenUnits | None:
    """The gated units behind a norm whose product is nearest to what a linear layer reads."""
    found, nearest = None, _RELATIVE
    for gate, up in permutations(ups, 2):
        downs = [down for down in linear if down.given.shape == gate.gave.shape == up.gave.shape]
        for name, activation in _GATES.items() if downs else ():
            hidden = activation()(gate.gave) * up.gave
            for down in downs:
                off = _relative_error(hidden, down.given)
                if off < nearest:
                    nearest = off
                    found = HiddenUnits(
                        norm,
                        _weight(up.module),
                        _bias(up.module),
                        _importance(hidden, down),
                        call.given,
                        GateMap(name, _weight(gate.module), _bias(gate.module)),
                    )
    return found


def _importance(hidden: Tensor, down: Call) -> Tensor:
    reads: Tensor = _weight(down.module).norm(dim=0)
    return hidden.flatten(0, -2).std(dim=0) * reads


def _rms_norm(call: Call) -> RMSNorm | None:
    """The RMS norm that a layer computes, if it is one: its own weights may be shifted by 1."""
    module, width = call.module, call.given.shape[-1]
    epsilon = next((getattr(module, n) for n in _EPSILONS if hasattr(module, n)), 0.0)
    if epsilon is None:
        epsilon = torch.finfo(call.given.dtype).eps
    with torch.no_grad():
        try:
            ones = module(call.given.new_ones(1, 1, width))
        except Exception:  # a layer of another kind, which takes other inputs
            return None
        if not isinstance(ones, Tensor) or ones.shape != (1, 1, width):
            return None
        weight = ones[0, 0] * math.sqrt(1 + epsilon)
        spread = (call.given.square().mean(-1, keepdim=True) + epsilon).rsqrt()
        same = _relative_error(call.given * spread * weight, call.gave) < _RELATIVE
    return RMSNorm(weight.detach(), epsilon) if same else None


def _relative_error(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return math.inf
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


@contextmanager
def _recording(part: nn.Module, calls: list[Call]) -> Iterator[None]:
    def note(module: nn.Module, given: tuple[object, ...], gave: object) -> None:
        if given and isinstance(given[0], Tensor) and isinstance(gave, Tensor):
            calls.append(Call(module, given[0], gave))

    hooks = [
        module.register_forward_hook(note)
        for module in part.modules()
        if isinstance(module, nn.LayerNorm) or is_linear(module) or _may_be_rms_norm(module)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _may_be_rms_norm(module: nn.Module) -> bool:
    """Whether a layer has one weight for each feature and nothing else, as RMS norms do."""
    if isinstance(module, nn.RMSNorm):
        return True
    own = list(module.parameters())
    return not list(module.children()) and len(own) == 1 and own[0].ndim == 1


def _weight(module: nn.Module) -> Tensor:
    """A linear layer's weight as (outlet, inlet)."""
    weight: Tensor = module.weight.detach()  # type: ignore[operator]
    return weight.T if _is_transposed(module) else weight


def _bias(module: nn.Module) -> Tensor:
    bias = module.bias
    if isinstance(bias, Tensor):
        return bias.detach()
    return _weight(module).new_zeros(len(_weight(module)))
