"""Find the blocks that a network repeats, so that it can be cut at them without being described."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, get_args

import torch
from torch import nn

from nas_theseus.errors import CutError
from nas_theseus.guide.chain import Guide, as_inlet, example_input
from nas_theseus.guide.cut import cut_points
from nas_theseus.guide.tracing import Trace, ancestors, is_torch_layer, trace

Cuts: TypeAlias = Literal["blocks", "stages"]

_NUMBER = re.compile(r"\d+")


def repeated_blocks(model: nn.Module, inlet: Sequence[int], at: Cuts = "blocks") -> list[str]:
    """Names to cut after: what comes before the blocks, every block, and what is between them.

    Blocks are submodules whose names differ in their numbers alone (``layer1.0``, ``layer1.1``,
    ``layer2.0``, …), of which each is followed by a place where one tensor passes. Of several such
    groups, the innermost is taken in which most have a skip or another branch: residual blocks, not
    their stages. If there is none, it is the largest group. What has parameters and is between two
    blocks, such as the downsampling of ConvNeXt, is a part of its own.

    Args:
        inlet: shape of one input (C, H, W).
        at: ``stages`` joins neighbours with the same outlet; what is before the first block stays
            a part of its own.

    Raises:
        CutError: the network cannot be traced or does not take the inlet, or repeats no block, or
            has one stage only.
    """
    if at not in get_args(Cuts):
        raise CutError(f"at is {' or '.join(map(repr, get_args(Cuts)))}, not {at!r}")
    found = _Network(model, tuple(inlet))
    blocks = found.blocks
    if len(blocks) < 2:
        raise CutError(
            f"{type(model).__name__} repeats no block after which one tensor passes; list the "
            "places with cut_points(model, inlet) or 'nas-theseus parts', and use "
            "cut(model, at=[…], inlet=…)"
        )
    cuts = found.cuts()
    return cuts if at == "blocks" else found.stages(cuts)


@dataclass(frozen=True)
class _Network:
    """A traced network, and the places where it can be cut.

    Attributes:
        inlet: shape of one input.
    """

    model: nn.Module
    inlet: tuple[int, ...]

    @cached_property
    def traced(self) -> Trace:
        return trace(self.model)

    @cached_property
    def places(self) -> dict[str, str]:
        """By every name of a place, its first one."""
        points = cut_points(self.model, self.inlet)
        return {name: point.name for point in points for name in (point.name, *point.also)}

    @cached_property
    def blocks(self) -> list[str]:
        """Names of the repeated blocks, in the order in which they run; empty if there are none."""
        groups: dict[str, list[str]] = {}
        for name in self.traced.last_of:
            if self._could_be_block(name):
                groups.setdefault(_NUMBER.sub("*", name), []).append(name)
        whole = [names for names in groups.values() if all(map(self._ends_in_one_tensor, names))]

        def suits(names: list[str]) -> tuple[float, ...]:
            depth = names[0].count(".")
            branching = sum(name in self._branching for name in names)
            if branching < len(names) / 2:  # parts of a block, or stages of plain layers
                return (0, len(names), -depth)
            return (1, depth, len(names))

        return max(whole, key=suits, default=[])

    @cached_property
    def _branching(self) -> set[str]:
        """Names of the modules in which the network cannot be cut everywhere."""
        stream = self.traced.needed & self.traced.streamed
        places = {self.traced.last_of[name] for name in self.places}
        found: set[str] = set()
        for node in stream - places:
            found |= set(_modules_of(node))
        for node in stream:
            if node.op == "call_module":  # kept whole, so it may branch inside
                found.add(str(node.target))
        return found

    def _could_be_block(self, name: str) -> bool:
        if not _NUMBER.search(name.rpartition(".")[2]):
            return False
        try:
            module = self.model.get_submodule(name)
        except AttributeError:
            return False  # the name of an operation
        return not is_torch_layer(module) and any(True for _ in module.parameters())

    def _ends_in_one_tensor(self, name: str) -> bool:
        last = self.traced.last_of[name] in self.traced.output.all_input_nodes
        return name in self.places or last

    def cuts(self) -> list[str]:
        """Names to cut after, in order."""
        before = {self.traced.inputs}
        names: list[str] = []
        for block in self.blocks:
            entry = self._entry(block)
            if entry is not None and (name := self._place_of(entry)) is not None:
                inside = ancestors(entry)
                if any(self._learns(node) for node in inside - before):
                    names.append(name)
            names.append(block)
            before = ancestors(self.traced.last_of[block])
        if self.traced.last_of[names[-1]] in self.traced.output.all_input_nodes:
            names.pop()  # nothing is left for the head
        return names

    def stages(self, cuts: Sequence[str]) -> list[str]:
        """Those of the cuts behind which the shape of the tensor changes."""
        shapes = self.traced.shapes(example_input(self.model, as_inlet(self.inlet), batch=2))
        outlets = [shapes[self.traced.last_of[name]] for name in cuts]
        first = 0 if cuts[0] in self.blocks else 1
        kept = [
            name
            for index, name in enumerate(cuts)
            if index < first or outlets[index : index + 1] != outlets[index + 1 : index + 2]
        ]
        if len(kept) < first + 2:
            raise CutError(
                f"{type(self.model).__name__} has one stage only: its features have one shape from "
                "the first block to the last; use at='blocks'"
            )
        return kept

    def _entry(self, block: str) -> torch.fx.Node | None:
        """The one tensor that a block reads; None if it reads several."""
        # By where nodes are run: their names include those of identities that were removed.
        inside = {node for node in self.traced.nodes if block in _modules_of(node)}
        stream = self.traced.streamed
        read = {before for node in inside for before in node.all_input_nodes} - inside
        entries = read & stream
        return entries.pop() if len(entries) == 1 else None

    def _place_of(self, node: torch.fx.Node) -> str | None:
        """Name of the place after a node, if the network can be cut there."""
        # A node also has the names of modules that end later, such as a network's "features".
        own = (name for name, last in self.traced.last_of.items() if last is node)
        return next((self.places[name] for name in own if name in self.places), None)

    def _learns(self, node: torch.fx.Node) -> bool:
        if node.op == "get_attr":
            return True
        if node.op != "call_module":
            return False
        return any(True for _ in self.model.get_submodule(str(node.target)).parameters())


def _modules_of(node: torch.fx.Node) -> list[str]:
    """Names of the submodules that a node runs in."""
    return [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]


def channels_first(guide: Guide) -> Guide:
    """A guide whose maps are (C, H, W) at every boundary, where parts pass on (H, W, C).

    Swin transformers do so. Parts are given a permutation at both ends, which cancel out. A map
    counts as (H, W, C) if its first two sides are equal and its last two are not, so inputs must be
    square.
    """
    last = [len(b.shape) == 3 and _is_square_first(b.shape) for b in guide.boundaries]
    # The input and the output are the task's.
    last[0] = last[-1] = False
    if not any(last):
        return guide
    for index, part in enumerate(guide.parts):
        if not isinstance(part, torch.fx.GraphModule):
            raise TypeError("parts of `cut` are graph modules")
        graph = part.graph
        if last[index]:
            features = next(iter(graph.nodes))
            with graph.inserting_after(features):
                turned = graph.call_method("permute", (features, 0, 2, 3, 1))
            features.replace_all_uses_with(
                turned, delete_user_cb=lambda user, t=turned: user is not t
            )
        if last[index + 1]:
            end = next(node for node in graph.nodes if node.op == "output")
            with graph.inserting_before(end):
                end.args = (graph.call_method("permute", (end.args[0], 0, 3, 1, 2)),)
        part.recompile()
    return Guide(list(zip(guide.names, guide.parts, strict=True)), guide.boundaries[0])


def _is_square_first(shape: tuple[int, ...]) -> bool:
    return shape[0] == shape[1] != shape[2]
