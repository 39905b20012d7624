"""Where in a network a layer is: the traced module around it, and one run of that module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from nas_theseus.convert.transforms.layers import is_transposed_linear
from nas_theseus.errors import CutError, TransformError
from nas_theseus.tracing import Trace, evaluating, trace


@dataclass(frozen=True)
class Site:
    """A traced module around a layer and the values of one run of it.

    Attributes:
        prefix: the module's own name in the network, with a dot behind; empty for the network.
        values: what each node gave: shapes for tensors, other values as they are.
        node: the layer's last node.
    """

    prefix: str
    trace: Trace
    values: dict[Node, Any]
    node: Node

    def module(self, node: Node) -> nn.Module:
        return self.trace.module.get_submodule(str(node.target))

    @cached_property
    def runs(self) -> dict[str, int]:
        """How often each submodule that runs whole is called."""
        called = [str(node.target) for node in self.trace.nodes if node.op == "call_module"]
        return {name: called.count(name) for name in called}

    def is_tensor(self, node: Node) -> bool:
        return isinstance(self.values.get(node), torch.Size)

    def shape(self, node: Node) -> torch.Size:
        shape = self.values[node]
        assert isinstance(shape, torch.Size)
        return shape


def site_of(model: nn.Module, layer: str, inputs: Tensor) -> Site:
    """The outermost traced module in which a layer is a place of its own.

    A module that runs whole (it does not trace, or depends on `training`) is looked into by itself:
    what stays within it can be transformed all the same.

    Raises:
        TransformError: no module has this name, or none around it traces.
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
    reason = f"{layer!r} is not run for an input of shape {tuple(inputs.shape)}"
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
            return Site(prefix, traced, _run(traced, fed[name]), node)
    raise TransformError(f"cannot follow what {layer!r} gives: {reason}")


def inputs_of(model: nn.Module, names: list[str], inputs: Tensor) -> dict[str, Tensor]:
    """The first tensor that each named submodule is fed in eval mode, if it is run at all."""
    found: dict[str, Tensor] = {}

    def keep(name: str, given: tuple[Any, ...]) -> None:
        if given and isinstance(given[0], Tensor):
            found.setdefault(name, given[0].detach().clone())

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, given, name=name: keep(name, given))
        for name in names
    ]
    with removing(hooks), evaluating(model):
        model(inputs)
    return found


@contextmanager
def removing(hooks: list[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """Take hooks off again, whatever happens."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _run(traced: Trace, inputs: Tensor) -> dict[Node, Any]:
    found: dict[Node, Any] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: Node) -> Any:
            value = super().run_node(n)
            found[n] = value.shape if isinstance(value, Tensor) else value
            return value

    with evaluating(traced.module):
        Recorder(traced.module).run(inputs)
    return found
