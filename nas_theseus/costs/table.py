"""Additive costs of a search space's blocks, each counted once, before anything runs."""

from __future__ import annotations

from functools import cached_property

from nas_theseus.costs.multiply_adds import count_macs
from nas_theseus.costs.parameters import count_params
from nas_theseus.errors import CostError
from nas_theseus.space.search_space import COSTS, SearchSpace
from nas_theseus.values.architecture import Architecture, BlockChoice, Boundary
from nas_theseus.values.outcomes import Cost

_Key = tuple[object, Boundary, Boundary]


class CostTable:
    """MACs and parameters of every block of a space; those of an architecture are their sums.

    Sums are exact because each stitch is folded into its block. Parameters tied between parts that
    are always kept count in the first of them; other tied parameters count in each part.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._known: dict[_Key, Cost] = {}

    def of_choice(self, choice: BlockChoice, inlet_share: float = 1.0) -> Cost:
        """Cost of one block for its span, with an inlet of a share of the guide's width.

        Raises:
            CostError: an operator cannot be counted; the message names the block and operator.
        """
        space = self._space
        inlet = space.boundary(choice.span.start, inlet_share)
        outlet = space.boundary(choice.span.stop, choice.width_share)
        family = space.families[choice.block]
        keeps = family.keeps
        span = choice.span if family.of_part else None
        key: _Key = ((span, choice.block, choice.hyperparameters), inlet, outlet)
        if key not in self._known:
            parts = space.guide.parts
            module = parts[choice.span.start] if keeps else space.build(choice, inlet_share)
            params = count_params(module)
            if keeps:
                params -= self._counted_before(choice.span.start)
            self._known[key] = Cost(count_macs(module, inlet), params)
        return self._known[key]

    def _counted_before(self, index: int) -> int:
        """Number of a part's parameters shared with an earlier part, if both are always kept."""
        space = self._space
        names, parts = space.guide.names, space.guide.parts
        if names[index] not in space.keep:
            return 0
        earlier = [parts[i] for i in range(index) if names[i] in space.keep]
        return (
            count_params(*earlier)
            + count_params(parts[index])
            - count_params(*earlier, parts[index])
        )

    def of_blocks(self, architecture: Architecture) -> list[Cost]:
        """Cost of each block of an architecture, in order."""
        shares = [1.0, *(choice.width_share for choice in architecture.choices)]
        return list(map(self.of_choice, architecture.choices, shares))

    def of(self, architecture: Architecture) -> Cost:
        """Cost of a whole architecture."""
        costs = self.of_blocks(architecture)
        return Cost(sum(c.macs for c in costs), sum(c.params for c in costs))

    def of_parts(self) -> Cost:
        """Cost of the guide itself."""
        guide = self._space.guide
        return Cost(sum(self.part_macs), count_params(*guide.parts))

    @cached_property
    def part_macs(self) -> tuple[int, ...]:
        """MACs of each part of the guide."""
        guide = self._space.guide
        pairs = zip(guide.parts, guide.boundaries, strict=False)
        return tuple(count_macs(part, inlet) for part, inlet in pairs)

    def range(self, name: str) -> tuple[int, int]:
        """One cost of the space's cheapest and most expensive architecture."""
        if name not in COSTS:
            raise ValueError(f"only additive costs have a range: {', '.join(COSTS)}")
        best: dict[tuple[int, float], tuple[int, int]] = {(0, 1.0): (0, 0)}
        # Spans are sorted by start, so a boundary's range is complete before it is used.
        for span, share in self._space.fitting:
            if (span.start, share) not in best:
                continue
            low, high = best[span.start, share]
            for choice in self._space.choices(span, share):
                cost = getattr(self.of_choice(choice, share), name)
                state = (span.stop, choice.width_share)
                known = best.get(state, (low + cost, high + cost))
                best[state] = (min(known[0], low + cost), max(known[1], high + cost))
        return best[len(self._space.guide), 1.0]

    def uncountable(self) -> list[str]:
        """One message for each block or guide part with an operator that cannot be counted."""
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
            if goal.log and goal.name in COSTS and self.range(goal.name)[0] <= 0
        ]

    def unmeetable(self) -> list[str]:
        """Messages on constraints that no architecture meets, with the nearest value."""
        said = []
        for limit in self._space.limits:
            if limit.name not in COSTS:
                continue
            low, high = self.range(limit.name)
            if limit.operator == "<=" and low > limit.limit:
                said.append(
                    f"no architecture meets the constraint '{limit}': the cheapest has "
                    f"{limit.name} = {low:,}; raise the limit or add cheaper blocks"
                )
            elif limit.operator == ">=" and high < limit.limit:
                said.append(
                    f"no architecture meets the constraint '{limit}': the largest has "
                    f"{limit.name} = {high:,}; lower the limit or add larger blocks"
                )
        return said
