"""A block that leaves a residual part out: a transformer's sublayer or a convolutional block."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.fx import Node

from nas_theseus.blocks.family import BlockFamily, block
from nas_theseus.blocks.of_sublayers import refuse_unless_residual, sublayers_of
from nas_theseus.errors import CutError, TransformError
from nas_theseus.guide.sublayers import Skip
from nas_theseus.guide.tracing import Trace, trace

_ADDITIONS = frozenset({"add", "add_", "iadd"})


def SkipPart() -> BlockFamily:
    """Nothing in place of a guide part that adds to its features: they pass unchanged."""
    return replace(block(skipped, "skip"), of_part=True)


def skipped(part: nn.Module, features: Tensor) -> nn.Module:
    """A module that passes features on.

    Args:
        features: inputs of the part, shape (N, *inlet).

    Raises:
        TransformError: the part is no residual one: neither a sublayer or layer x + f(norm(x)), nor
            any other module whose output is its input, plus something, possibly activated.
    """
    if sublayers_of(part):
        refuse_unless_residual(part)
    elif not _adds_to_its_input(part, features[:1]):
        raise TransformError(
            "its output is not its input plus something, such as x + f(x) or relu(x + f(x)); name "
            "the parts that are with .on(…). Identity() takes any part with equal boundaries"
        )
    return Skip()


def _adds_to_its_input(part: nn.Module, features: Tensor) -> bool:
    """Whether a part's input reaches its output through additions and single activations alone."""
    try:
        traced = trace(part)
    except CutError:
        return False
    shapes = traced.shapes(features.clone())
    added: list[Node] = []

    def carries(node: Node) -> bool:
        if shapes.get(node) != tuple(features.shape):
            return False
        if node.op == "placeholder":
            return True
        sources = [source for source in node.all_input_nodes if source in shapes]
        if _name(node) in _ADDITIONS and any([carries(source) for source in sources]):
            added.append(node)
            return True
        if len(sources) != 1 or not carries(sources[0]):
            return False
        inner = _with_weights(traced, node)
        if inner is not None:  # called as a whole, such as the only block of a part
            if not _adds_to_its_input(inner, torch.zeros_like(features)):
                return False
            added.append(node)
        return True

    return carries(traced.output.all_input_nodes[0]) and bool(added)


def _name(node: Node) -> str:
    return "" if node.op == "call_module" else getattr(node.target, "__name__", str(node.target))


def _with_weights(traced: Trace, node: Node) -> nn.Module | None:
    """The module that a node calls, if it has weights."""
    if node.op != "call_module":
        return None
    module = traced.module.get_submodule(str(node.target))
    return module if module.state_dict() else None
