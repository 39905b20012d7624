"""Trace a network with torch.fx, so that it can be cut."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from nas_theseus.errors import CutError

_ALIASES = "theseus_names"


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Context with eval mode and no gradients; restores each module's mode on exit."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@dataclass(frozen=True)
class Trace:
    """A traced network, and which tensors cross a cut of it."""

    module: GraphModule

    @property
    def nodes(self) -> Iterator[Node]:
        return iter(self.module.graph.nodes)

    @cached_property
    def inputs(self) -> Node:
        return next(self.nodes)

    @cached_property
    def output(self) -> Node:
        return next(node for node in self.nodes if node.op == "output")

    @cached_property
    def needed(self) -> set[Node]:
        return ancestors(self.output)

    @cached_property
    def streamed(self) -> set[Node]:
        """Nodes computed from the network's input; the others depend on parameters only."""
        found: set[Node] = set()
        for node in self.nodes:
            # Also modules, since one with dropout or statistics must not run in two parts.
            if node.op in ("placeholder", "call_module") or found & set(node.all_input_nodes):
                found.add(node)
        return found

    @cached_property
    def last_of(self) -> dict[str, Node]:
        """The last node of each name.

        A submodule that is called several times, such as an activation, gives its name to its last
        call; the first one is ``name:1``, the second one ``name:2``, and so on.
        """
        kept = self.needed & self.streamed
        stream = [node for node in self.nodes if node in kept]
        found = {name: node for node in stream for name in names_of(node)}
        calls: dict[str, list[Node]] = {}
        for node in stream:
            if node.op == "call_module":
                calls.setdefault(label(node), []).append(node)
        for name, nodes in calls.items():
            found |= {f"{name}:{number}": node for number, node in enumerate(nodes[:-1], 1)}
        return found

    def shapes(self, inputs: Tensor) -> dict[Node, tuple[int, ...]]:
        """Shapes of all tensors of one run in eval mode."""
        found: dict[Node, tuple[int, ...]] = {}

        class Recorder(torch.fx.Interpreter):
            def run_node(self, n: Node) -> Any:
                value = super().run_node(n)
                if isinstance(value, Tensor):
                    found[n] = tuple(value.shape)
                return value

        with evaluating(self.module):
            Recorder(self.module).run(inputs)
        return found

    def whole(self, name: str) -> str | None:
        """The submodule around `name` that is kept whole, if there is one."""
        leaves = {str(node.target) for node in self.nodes if node.op == "call_module"}
        return next((leaf for leaf in leaves if name.startswith(f"{leaf}.")), None)

    def crossing(self, inside: set[Node], cut_node: Node) -> list[str]:
        """Names of the tensors that cross a cut besides the cut's own.

        Parameters, and values computed from them alone, do not count, since each side can read
        them. Neither does the batch size, which is the same at every boundary.
        """
        carried = {node for node in self.needed & self.streamed if not is_batch_size(node)}
        return [
            label(node)
            for node in self.nodes
            if node in carried & inside
            and node is not cut_node
            and any(user in carried and user not in inside for user in node.users)
        ]


class _Tracer(torch.fx.Tracer):
    """Traces the first argument of `forward`; the other arguments keep their defaults.

    Args:
        opaque: names of submodules that cannot be traced.
        whole: whether to keep a further module whole.

    Attributes:
        failed: name of the innermost submodule in which tracing failed.
    """

    def __init__(self, opaque: Collection[str], whole: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self._opaque = opaque
        self._whole = whole
        self.failed: str | None = None

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        # A proxy for an optional argument is never None, so it would trace the wrong branch.
        return root_fn, [self.root, self.create_proxy("placeholder", "inputs", (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            module_qualified_name in self._opaque
            or super().is_leaf_module(m, module_qualified_name)
            or is_torch_layer(m)
            or _depends_on_mode(m)
            or self._whole(m)
        )

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise


def is_torch_layer(module: nn.Module) -> bool:
    """Whether a class derives from one of torch's layers, as timm's batch norms do."""
    containers = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return any(
        issubclass(base, nn.Module)
        and base not in containers
        and base.__module__.startswith("torch.nn.")
        for base in type(module).__mro__
    )


def _depends_on_mode(module: nn.Module) -> bool:
    """Whether a class reads `training` itself (stochastic depth); a trace records only one mode."""
    return any(
        "training" in function.__code__.co_names
        for base in type(module).__mro__
        if not base.__module__.startswith("torch.nn.")
        for name, method in vars(base).items()
        if isinstance(function := inspect.unwrap(method), FunctionType)
        and name not in ("__init__", "train")
    )


def trace(model: nn.Module, whole: Callable[[nn.Module], bool] = lambda _: False) -> Trace:
    """Trace a model in eval mode.

    Submodules are kept whole if torch.fx cannot trace them, if they are torch layers, or if they
    depend on `training`, so that the trace can be trained. Identities are removed from the trace
    and batch sizes are read from the input, so that neither prevents a cut.

    Args:
        model: any module whose `forward` torch.fx can trace.
        whole: whether to keep a further module whole.

    Raises:
        CutError: the model's own forward cannot be traced.
    """
    with evaluating(model):
        graph = _graph_of(model, whole)
        _read_batch_size_from_input(graph)
        _drop_identities(graph, model)
    return Trace(GraphModule(model, graph))


def _graph_of(model: nn.Module, whole: Callable[[nn.Module], bool]) -> Graph:
    opaque: set[str] = set()
    while True:
        tracer = _Tracer(opaque, whole)
        try:
            return tracer.trace(model)
        except Exception as error:  # fx passes on whatever a forward raises on proxies
            if tracer.failed is None:
                said = str(error) or type(error).__name__
                raise CutError(
                    f"torch.fx cannot trace {type(model).__name__}: {said.splitlines()[0]}. "
                    "Build the chain by hand: Guide([(name, module), …], inlet)"
                ) from error
            opaque.add(tracer.failed)


def _read_batch_size_from_input(graph: Graph) -> None:
    """Rewrite ``inputs.shape[0]`` and ``inputs.size()[0]`` as ``inputs.size(0)``."""
    inputs = next(iter(graph.nodes))
    for node in list(graph.nodes):
        if node.target is not operator.getitem or node.args[1] != 0:
            continue
        sizes = node.args[0]
        if sizes.args in ((inputs,), (inputs, "shape")) and sizes.target in ("size", getattr):
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.call_method("size", (inputs, 0)))


def is_batch_size(node: Node) -> bool:
    """Whether a node is ``inputs.size(0)``."""
    if node.target != "size" or node.op != "call_method" or node.args[1:] != (0,):
        return False
    return isinstance(source := node.args[0], Node) and source.op == "placeholder"


def _drop_identities(graph: Graph, model: nn.Module) -> None:
    """Remove identities; the node before each takes over its names as a cut point."""
    for node in list(graph.nodes):
        if node.op == "call_module" and type(model.get_submodule(node.target)) is nn.Identity:
            before = node.args[0]
            before.meta[_ALIASES] = [*before.meta.get(_ALIASES, ()), *names_of(node)]
            node.replace_all_uses_with(before)
            graph.erase_node(node)


def names_of(node: Node) -> list[str]:
    """Names of a node: its enclosing submodules, and its own name for operations."""
    if node.op in ("placeholder", "output", "get_attr"):
        return []
    stack = node.meta.get("nn_module_stack") or {}
    names = [path for path, _ in stack.values() if path]
    return list(dict.fromkeys([*names, *node.meta.get(_ALIASES, ()), label(node)]))


def label(node: Node) -> str:
    """The submodule that a node calls, or its own name for operations."""
    return str(node.target) if node.op == "call_module" else node.name


def ancestors(node: Node) -> set[Node]:
    """A node and all nodes that it is computed from."""
    found = {node}
    waiting = [node]
    while waiting:
        for before in waiting.pop().all_input_nodes:
            if before not in found:
                found.add(before)
                waiting.append(before)
    return found
