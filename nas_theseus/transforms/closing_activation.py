"""Find activations that can be repeated without effect: idempotent ones, within their range."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import inf

from torch import Tensor, nn
from torch.fx import Node

from nas_theseus.errors import TransformError
from nas_theseus.transforms import layers
from nas_theseus.transforms.sites import Site, site_of

# Ranges of values that an idempotent activation does not change.
_FIXED = {
    "ReLU": (0.0, inf),
    "relu": (0.0, inf),
    "relu_": (0.0, inf),
    "ReLU6": (0.0, 6.0),
    "relu6": (0.0, 6.0),
    "Hardtanh": (-1.0, 1.0),
    "hardtanh": (-1.0, 1.0),
}
# Ranges of outputs of other activations, none of which is idempotent.
_GIVEN = {
    "Sigmoid": (0.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "Hardsigmoid": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "Softplus": (0.0, inf),
    "softplus": (0.0, inf),
}
_ACTIVATIONS = {"relu": nn.ReLU, "relu_": nn.ReLU, "relu6": nn.ReLU6, "hardtanh": nn.Hardtanh}


def is_activation(module: nn.Module) -> bool:
    """Whether a module is an activation function, not dropout or an identity."""
    names = layers.names_of_class(module)
    drops = {"Identity"} | {name for name in names if "Drop" in name}
    return bool(names & layers.ELEMENTWISE_MODULES) and not names & drops


def activation_before(model: nn.Module, after: str, inputs: Tensor) -> list[nn.Module]:
    """A new copy of the activation at the end of a submodule; empty if there is none."""
    site = site_of(model, after, inputs)
    node = site.node
    if node.op == "call_module":
        module = site.module(node)
        if is_activation(module):
            return [copy.deepcopy(module)]
        return []
    name = layers.function_name(node) if node.op != "placeholder" else ""
    if name in _ACTIVATIONS and len(node.args) == 1:
        return [_ACTIVATIONS[name]()]
    if name in layers.ELEMENTWISE_FUNCTIONS and len(node.all_input_nodes) == 1:
        raise _not_idempotent(after, name)
    return []


def closing_activation(model: nn.Module, after: str, inputs: Tensor) -> nn.Module | None:
    """A new copy of the idempotent activation at the end of a submodule; None if there is none."""
    try:
        found = activation_before(model, after, inputs)
    except TransformError:  # not idempotent, or the module cannot be traced
        return None
    return next((a for a in found if type(a).__name__ in _FIXED), None)


def _not_idempotent(after: str, name: str) -> TransformError:
    return TransformError(
        f"an identity layer after {after!r} needs an idempotent activation, σ(σ(x)) = σ(x), which "
        f"{name} is not: use r2deeper, or ReLU"
    )


def refuse_range(
    model: nn.Module, after: str, inputs: Tensor, activations: Sequence[nn.Module]
) -> None:
    """Raise TransformError if an activation would change possible outputs of the submodule."""
    if not activations:
        return
    site = site_of(model, after, inputs)
    low, high = _range(site, site.node)
    for activation in activations:
        name = type(activation).__name__
        if name not in _FIXED:
            raise _not_idempotent(after, name)
        least, most = _limits(name, activation)
        if low < least or high > most:
            raise TransformError(
                f"{name} after {after!r} would change values there: they range from {low:g} to "
                f"{high:g}, but it keeps only {least:g} to {most:g}; put it after another {name}, "
                "or use r2deeper without activation"
            )


def _limits(name: str, source: object) -> tuple[float, float]:
    low, high = _FIXED[name]
    if name == "Hardtanh":
        return float(source.min_val), float(source.max_val)  # type: ignore[attr-defined]
    return low, high


def _range(site: Site, node: Node) -> tuple[float, float]:
    """Bounds of a node's output, for any input of the network."""
    unknown = (-inf, inf)
    if node.op not in ("call_module", "call_function", "call_method"):
        return unknown
    module = site.module(node) if node.op == "call_module" else None
    name = type(module).__name__ if module is not None else layers.function_name(node)
    if name == "hardtanh" and len(node.args) + len(node.kwargs) > 1:
        return unknown
    if name in _FIXED:
        return _limits(name, module)
    if name in _GIVEN:
        return _GIVEN[name]
    pooled = layers.spatial_dimensions(name, 4) is not None
    if not (pooled or name in layers.MOVES or "dropout" in name.lower()) or name in (
        "cat",
        "stack",
    ):
        return unknown
    low, high = _range(site, node.all_input_nodes[0])
    # Dropout scales values, and padding inserts zeros.
    return (
        (min(low, 0.0), max(high, 0.0))
        if "rop" not in name
        else (0.0 if low >= 0 else -inf, 0.0 if high <= 0 else inf)
    )
