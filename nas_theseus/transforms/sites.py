"""Locate a layer in a network: the traced module around it, and one run of that module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg

from nas_theseus.errors import CutError, TransformError
from nas_theseus.guide.tracing import Trace, evaluating, trace
from nas_theseus.transforms.layers import is_transposed_linear


@dataclass(frozen=True)
class Site:
    """A traced module around a layer and the values of one run of it.

    Attributes:
        prefix: name of the module in the network followed by a dot; empty for the network itself.
        shapes: shapes of nodes whose values are tensors.
        values: values of all other nodes: sizes, and tuples of tensors.
        node: the layer's last node.
    """

    prefix: str
    trace: Trace
    shapes: dict[Node, torch.Size]
    values: dict[Node, Any]
    node: Node

    def module(self, node: Node) -> nn.Module:
        return self.trace.module.get_submodule(str(node.target))

    @cached_property
    def runs(self) -> dict[str, int]:
        """Number of calls of each submodule that is kept whole."""
        called = [str(node.target) for node in self.trace.nodes if node.op == "call_module"]
        return {name: called.count(name) for name in called}

    def call(self, node: Node, given: dict[Node, Any]) -> Any:
        """Run one operation on other values than those of the recorded run."""
        args, kwargs = map_arg(
            (node.args, node.kwargs), lambda n: given[n] if n in given else self.values[n]
        )
        if node.op == "call_module":
            return self.module(node)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def gives_tensors(self, node: Node) -> bool:
        """Whether a node returns a tuple of tensors, as a split does."""
        value = self.values.get(node)
        return isinstance(value, tuple | list) and any(isinstance(v, Tensor) for v in value)


def site_of(model: nn.Module, layer: str, inputs: Tensor) -> Site:
    """The outermost traced module in which a layer has its own node.

    A submodule that is kept whole (it cannot be traced, or depends on `training`) is traced by
    itself, so that volumes inside it can be transformed too.

    Raises:
        TransformError: no module has this name, or no module around it can be traced.
    """
    if layer not in dict(model.named_modules()) or not layer:
        known = [name for name, _ in model.named_modules() if name]
        raise TransformError(
            f"{type(model).__name__} has no submodule {layer!r}; it has {', '.join(known[:40])}"
            + (", …" if len(known) > 40 else "")
        )
    pieces = layer.split(".")
    around = [".".join(pieces[:count]) for count in range(len(pieces))]
    fed = inputs_of(model, around, inputs)
    reason = "no module around it takes one tensor and can be traced"
    for name in around:
        if name not in fed:
            continue
        try:
            traced = trace(model.get_submodule(name), whole=is_transposed_linear)
        except CutError as error:
            reason = str(error)
            continue
        prefix = f"{name}." if name else ""
        node = traced.last_of.get(layer.removeprefix(prefix))
        if node is not None:
            return Site(prefix, traced, *_run(traced, fed[name]), node)
    raise TransformError(f"cannot follow the output of {layer!r}: {reason}")


def site_around(module: nn.Module, inputs: Tensor) -> Site:
    """A whole module as a site; its node is the module's output.

    Raises:
        TransformError: torch.fx cannot trace it.
    """
    try:
        traced = trace(module, whole=is_transposed_linear)
    except CutError as error:
        raise TransformError(str(error)) from error
    return Site("", traced, *_run(traced, inputs), traced.output.all_input_nodes[0])


def inputs_of(model: nn.Module, names: list[str], inputs: Tensor) -> dict[str, Tensor]:
    """First input tensor of each named submodule in eval mode, if it runs."""
    found: dict[str, Tensor] = {}

    def keep(name: str, given: tuple[Any, ...]) -> None:
        if given and isinstance(given[0], Tensor):
            found.setdefault(name, given[0].detach().clone())

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: keep(name, given)
        )
        for name in names
    ]
    with removing(hooks), evaluating(model):
        model(inputs)
    return found


@contextmanager
def removing(hooks: list[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """Context that removes hooks on exit."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _run(traced: Trace, inputs: Tensor) -> tuple[dict[Node, torch.Size], dict[Node, Any]]:
    shapes: dict[Node, torch.Size] = {}
    values: dict[Node, Any] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                shapes[n] = value.shape
            else:
                values[n] = value
            return value

    with evaluating(traced.module):
        Recorder(traced.module).run(inputs)
    return shapes, values
