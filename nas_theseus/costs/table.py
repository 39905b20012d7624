"""Additive costs of a search space's blocks, each counted or measured once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

from torch import nn

from nas_theseus.costs.block_measurements import BlockMeasurements, measurement_id
from nas_theseus.costs.probe import eval_view
from nas_theseus.costs.taking import counted
from nas_theseus.errors import CostError
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture, BlockChoice, Boundary
from nas_theseus.values.cost_measure import CheckedCost
from nas_theseus.values.goals import plain_number
from nas_theseus.values.outcomes import Cost

_Key = tuple[object, Boundary, Boundary]


class CostTable:
    """Additive costs of every block of a space; those of an architecture are their sums.

    They are multiply-adds, parameters, and the additive costs that the space's objectives and
    constraints name. Sums are exact because each stitch is folded into its block. Parameters tied
    between parts that are always kept count in the first of them; other tied parameters count in
    each part.

    Args:
        measurements: of the costs that are measured on blocks. Default: none; these costs are left
            out, and blocks of which they cannot be measured are refused.
    """

    def __init__(self, space: SearchSpace, measurements: BlockMeasurements | None = None) -> None:
        self._space, self._measurements = space, measurements
        self._known: dict[_Key, Cost] = {}

    @property
    def measurements(self) -> dict[str, float] | None:
        """Measured costs of blocks by id; None if there are none."""
        return None if self._measurements is None else dict(self._measurements.numbers)

    @property
    def names(self) -> tuple[str, ...]:
        """The costs that are known."""
        if self._measurements is not None:
            return self._space.additive
        by_block = self._space.measured_by_block
        return tuple(name for name in self._space.additive if name not in by_block)

    def of_choice(self, choice: BlockChoice, inlet_share: float = 1.0) -> Cost:
        """Cost of one block for its span, with an inlet of a share of the guide's width.

        Raises:
            CostError: an operator cannot be counted, or a cost not be measured; the message names
                the block.
        """
        key = self._key(choice, inlet_share)
        if key not in self._known:
            module, index = self._module(choice, inlet_share), choice.span.start
            keeps = self._space.families[choice.block].keeps
            earlier = self._kept_before(index) if keeps else ()
            inlet = self._space.boundary(index, inlet_share)
            self._known[key] = self._counted(module, inlet, earlier)
        return self._known[key]

    def _key(self, choice: BlockChoice, inlet_share: float) -> _Key:
        """What a block's cost depends on."""
        space = self._space
        inlet = space.boundary(choice.span.start, inlet_share)
        outlet = space.boundary(choice.span.stop, choice.width_share)
        part = self._part(choice) if space.families[choice.block].of_part else None
        return (part, choice.block, choice.hyperparameters), inlet, outlet

    def _module(self, choice: BlockChoice, inlet_share: float) -> nn.Module:
        """The block; of parts of one kind always the first one's, whoever asks first."""
        family = self._space.families[choice.block]
        if family.of_part:
            part = self._part(choice)
            index = part if isinstance(part, int) else self._first_of_kind[part]
            if family.keeps:
                return self._space.guide.parts[index]
            choice = replace(choice, span=self._space.span(index, index + 1))
        return self._space.build(choice, inlet_share)

    @cached_property
    def _first_of_kind(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for index in range(len(self._space.guide)):
            found.setdefault(self._space.part_kind(index), index)
        return found

    def _part(self, choice: BlockChoice) -> int | str:
        """What a block made of a part depends on: the part's kind, or the part itself.

        Where parts are tied, costs depend on the part; a cost of the user's own may read weights.
        """
        space, index = self._space, choice.span.start
        alone = space.guide.names[index] in space.keep or bool(space.own_costs)
        return index if alone else space.part_kind(index)

    def _kept_before(self, index: int) -> Sequence[nn.Module]:
        """The always-kept parts before this one, if this one is always kept too."""
        names, parts = self._space.guide.names, self._space.guide.parts
        if names[index] not in self._space.keep:
            return ()
        return [parts[i] for i in range(index) if names[i] in self._space.keep]

    def _counted(self, module: nn.Module, inlet: Boundary, earlier: Sequence[nn.Module]) -> Cost:
        counts = {}
        for name in self._space.additive:
            measure = self._space.measures[name]
            if name in self._space.measured_by_block:
                if self._measurements is not None:
                    counts[name] = self._measurements.of(measure, module, inlet)
                elif isinstance(measure, CheckedCost):
                    measure.check_block(module, inlet)
                continue
            # A user's own measure may change what it is given; those of the package do not.
            given = eval_view(module) if name in self._space.own_costs else module
            counts[name] = counted(measure, given, inlet, earlier)
        return Cost(counts)

    def lacking(self) -> int:
        """How many costs of blocks have not been measured."""
        lacking = set()
        for module, inlet in self._blocks():
            for name in self._space.measured_by_block:
                found = self._space.measures[name], module, inlet
                if self._measurements is None or not self._measurements.has(*found):
                    lacking.add(measurement_id(*found))
        return len(lacking)

    def measured(self) -> dict[str, float]:
        """Costs of all blocks by `measurement_id`; those that are not known are measured.

        Raises:
            CostError: one cannot be measured; the message names the block.
            StorageError: they cannot be saved.
        """
        found = {}
        for module, inlet in self._blocks():
            for name in self._space.measured_by_block:
                if self._measurements is not None:
                    measure = self._space.measures[name]
                    value = self._measurements.of(measure, module, inlet)
                    found[measurement_id(measure, module, inlet)] = value
        return found

    def _blocks(self) -> Iterator[tuple[nn.Module, Boundary]]:
        """The guide's parts and every other block, each with its inlet."""
        space = self._space
        if not space.measured_by_block:
            return
        yield from zip(space.guide.parts, space.guide.boundaries, strict=False)
        seen: set[_Key] = set()
        for span, share in space.fitting:
            for choice in space.choices(span, share):
                key = self._key(choice, share)
                if not space.families[choice.block].keeps and key not in seen:
                    seen.add(key)
                    yield self._module(choice, share), space.boundary(span.start, share)

    def of_blocks(self, architecture: Architecture) -> list[Cost]:
        """Cost of each block of an architecture, in order."""
        shares = [1.0, *(choice.width_share for choice in architecture.choices)]
        return list(map(self.of_choice, architecture.choices, shares))

    def of(self, architecture: Architecture) -> Cost:
        """Cost of a whole architecture."""
        return Cost.total(self.of_blocks(architecture))

    def of_parts(self) -> Cost:
        """Cost of the guide itself, whose tied parameters count once."""
        return Cost.total(self._parts)

    @cached_property
    def _parts(self) -> tuple[Cost, ...]:
        guide = self._space.guide
        return tuple(
            self._counted(part, guide.boundaries[index], list(guide.parts)[:index])
            for index, part in enumerate(guide.parts)
        )

    @cached_property
    def part_macs(self) -> tuple[int, ...]:
        """MACs of each part of the guide."""
        return tuple(cost.macs for cost in self._parts)

    def range(self, name: str) -> tuple[float, float]:
        """One cost of the space's cheapest and most expensive architecture.

        Raises:
            ValueError: it is not an additive cost of the space.
        """
        if name not in self.names:
            names = ", ".join(self.names)
            raise ValueError(
                f"only additive costs that are known have a range: {names}, not {name}"
            )
        best: dict[tuple[int, float], tuple[float, float]] = {(0, 1.0): (0, 0)}
        # Spans are sorted by start, so a boundary's range is complete before it is used.
        for span, share in self._space.fitting:
            if (span.start, share) not in best:
                continue
            low, high = best[span.start, share]
            for choice in self._space.choices(span, share):
                cost = self.of_choice(choice, share)[name]
                state = (span.stop, choice.width_share)
                known = best.get(state, (low + cost, high + cost))
                best[state] = (min(known[0], low + cost), max(known[1], high + cost))
        return best[len(self._space.guide), 1.0]

    def uncountable(self) -> list[str]:
        """One message for each block or guide part with a cost that cannot be taken."""
        said: dict[str, None] = {}
        try:
            self.of_parts()
        except CostError as error:
            said[f"guide: {error}"] = None
        for span, share in self._space.fitting:
            for choice in self._space.choices(span, share):
                try:
                    self.of_choice(choice, share)
                except CostError as error:
                    said[f"block {choice.block!r}: {error}"] = None
        return list(said)

    def without_logarithm(self) -> list[str]:
        """Messages on costs that are objectives on a log scale though an architecture has 0."""
        return [
            f"objective {goal.name!r} is on a log scale, but is 0 for the cheapest architecture; "
            f"use minimize({goal.name!r}, log=False)"
            for goal in self._space.goals
            if goal.log and goal.name in self.names and self.range(goal.name)[0] <= 0
        ]

    def unmeetable(self) -> list[str]:
        """Messages on constraints that no architecture meets, with the nearest value."""
        said = []
        for limit in self._space.limits:
            if limit.name not in self.names:
                continue
            low, high = self.range(limit.name)
            if limit.operator == "<=" and low > limit.limit:
                said.append(
                    f"no architecture meets the constraint '{limit}': the cheapest has "
                    f"{limit.name} = {plain_number(low)}; raise the limit or add cheaper blocks"
                )
            elif limit.operator == ">=" and high < limit.limit:
                said.append(
                    f"no architecture meets the constraint '{limit}': the largest has "
                    f"{limit.name} = {plain_number(high)}; lower the limit or add larger blocks"
                )
        return said
