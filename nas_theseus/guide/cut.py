"""Cut a traced network into parts, and list where it can be cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nas_theseus.errors import CutError
from nas_theseus.guide.chain import (
    Guide,
    as_inlet,
    does_not_run,
    example_input,
)
from nas_theseus.guide.tracing import Trace, ancestors, evaluating, is_batch_size, trace
from nas_theseus.guide.weights import load_given_weights


def cut(
    model: nn.Module,
    at: Sequence[str],
    inlet: Sequence[int],
    *,
    weights: str | Path | None = None,
) -> Guide:
    """Split a torch module into a chain of parts, after each named submodule or operation.

    The model is traced with torch.fx in eval mode. Submodules that cannot be traced, or that
    depend on `training` themselves, are kept whole. The parts share the model's parameters;
    nothing is copied. The chain's output is compared with the model's.

    Args:
        model: any module whose `forward` torch.fx can trace and whose first argument is the input.
            For other modules, build `Guide([(name, module), …])`.
        at: names to cut after, in order, as listed by `cut_points` (or ``nas-theseus parts``).
        inlet: shape of one input without the batch dimension, such as (3, 224, 224).
        weights: safetensors file, or a checkpoint that ``torch.load(weights_only=True)`` reads,
            with the state dict of `model`.

    Raises:
        CutError: the model cannot be traced or does not take the inlet, a name is unknown, the
            names are out of order, or more than one tensor crosses a cut; the message names the
            other tensors.
        GuideError: the weights file is missing, damaged or from another network.
    """
    if isinstance(at, str):
        raise CutError(f"at: must be a list of names to cut after, such as [{at!r}], not {at!r}")
    boundary = as_inlet(inlet)
    load_given_weights(model, weights)
    traced = trace(model)
    cuts = [(name, _node_of(traced, name)) for name in at]
    previous, inside = traced.inputs, {traced.inputs}
    parts: list[tuple[str, nn.Module]] = []
    for name, node in [*cuts, ("head", traced.output)]:
        before = ancestors(node)
        if previous not in before:
            behind = repr(parts[-1][0]) if parts else "the network's input"
            raise CutError(
                f"cannot cut after {name!r} here: it does not come after {behind}; "
                "list the names in the order in which the network runs them"
            )
        if node is not traced.output and (crossing := traced.crossing(before, node)):
            raise CutError(
                f"cannot cut after {name!r}: exactly one tensor may cross a cut, but "
                f"{', '.join(map(repr, crossing))} also cross it; "
                "'nas-theseus parts' lists where this model can be cut"
            )
        parts.append((name, _part(traced, before - inside, previous, node)))
        inside, previous = before, node
    _refuse_shared_buffers(parts)
    guide = Guide(parts, boundary)
    refuse_other_outputs(guide, model, example_input(model, guide.boundaries[0], batch=2, seed=1))
    return guide


def refuse_other_outputs(guide: Guide, model: nn.Module, inputs: Tensor) -> None:
    """Check that a chain computes the same outputs as its model, both in eval mode.

    Raises:
        CutError: the outputs differ by more than rounding.
    """
    with evaluating(guide, model):
        expected = model(inputs)
        expected = getattr(expected, "logits", expected)  # Hugging Face's outputs
        difference = (guide(inputs) - expected).abs().max()
    # Half precision rounds in every part, and libraries round at other places.
    rounding = max(1e-4, 6 * torch.finfo(expected.dtype).eps)
    if not difference <= rounding * expected.abs().max():
        raise CutError(
            f"the chain of {', '.join(guide.names)} does not compute what {type(model).__name__} "
            f"computes: outputs differ by up to {float(difference):.2g}. A trace records neither "
            "random numbers nor state that a forward keeps between calls; build the chain by hand: "
            "Guide([(name, module), …], inlet)"
        )


@dataclass(frozen=True)
class CutPoint:
    """A place where exactly one tensor crosses, by the name that `cut` takes."""

    name: str
    also: tuple[str, ...] = ()


def cut_points(model: nn.Module, inlet: Sequence[int] | None = None) -> list[CutPoint]:
    """Every place where a model can be cut, in the order in which it runs.

    Args:
        inlet: shape of one input. If given, places are left out whose tensor is not a boundary,
            such as the windows of a Swin transformer.

    Raises:
        CutError: torch.fx cannot trace the model, or the model does not take the inlet.
    """
    traced = trace(model)
    by_node: dict[torch.fx.Node, list[str]] = {}
    for name, node in traced.last_of.items():
        by_node.setdefault(node, []).append(name)
    if inlet is not None:
        inputs = example_input(model, boundary := as_inlet(inlet), batch=2)
        try:
            shapes = traced.shapes(inputs)
        except Exception as error:  # the user's module may raise anything
            raise does_not_run(type(model).__name__, inputs, boundary, error) from error
        for node in list(by_node):
            shape = shapes.get(node, ())
            if shape[:1] != (2,) or not 2 <= len(shape) <= 4:
                del by_node[node]
    points = []
    for node in traced.nodes:
        if node not in by_node or node in traced.output.all_input_nodes:
            continue
        before = ancestors(node)
        if traced.inputs in before and not traced.crossing(before, node):
            # Submodules before operations, and the outermost first: "blocks.0", not "add_2".
            operation = node.name if node.op != "call_module" else None
            names = sorted(by_node[node], key=lambda name: (name == operation, name.count(".")))
            points.append(CutPoint(names[0], tuple(names[1:])))
    return points


def _node_of(traced: Trace, name: str) -> torch.fx.Node:
    if name in traced.last_of:
        return traced.last_of[name]
    if whole := traced.whole(name):
        raise CutError(
            f"cannot cut after {name!r}: {whole!r} is kept whole, because it depends on `training` "
            f"or cannot be traced; cut after {whole!r}, or build the chain by hand: "
            "Guide([(name, module), …], inlet)"
        )
    known = sorted(traced.last_of)
    raise CutError(
        f"cannot cut after {name!r}: no submodule or operation has this name; available: "
        + ", ".join(known[:40])
        + (", …" if len(known) > 40 else "")
    )


def _part(
    traced: Trace, nodes: set[torch.fx.Node], previous: torch.fx.Node, last: torch.fx.Node
) -> torch.fx.GraphModule:
    """The module that runs `nodes` on the tensor of `previous` and returns that of `last`."""
    graph = torch.fx.Graph()
    features = graph.placeholder("features")
    copies = {previous: features}

    def copy_of(node: torch.fx.Node) -> torch.fx.Node:
        if node not in copies:  # parameters and batch size may also be read by an earlier part
            copies[node] = (
                graph.call_method("size", (features, 0))
                if is_batch_size(node)
                else graph.node_copy(node, copy_of)
            )
        return copies[node]

    for node in traced.nodes:
        if node in nodes and node.op != "output":
            copy_of(node)
    result = last.args[0] if last.op == "output" else last
    if not isinstance(result, torch.fx.Node):
        raise CutError(f"the network must return one tensor; it returns {result!r}")
    graph.output(copy_of(result))
    return torch.fx.GraphModule(traced.module, graph)


def _refuse_shared_buffers(parts: Sequence[tuple[str, nn.Module]]) -> None:
    """Refuse parts that share a module whose state is updated (batch norm)."""
    owner: dict[int, str] = {}
    for name, part in parts:
        for buffer in part.buffers():
            if owner.setdefault(id(buffer), name) != name:
                raise CutError(
                    f"parts {owner[id(buffer)]!r} and {name!r} share a module with running "
                    "statistics; cut so that both uses are in one part"
                )
