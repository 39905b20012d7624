"""Additive costs of a search space's blocks, counted once each: known before anything runs."""

from __future__ import annotations

from nas_theseus.costs.macs import count_macs
from nas_theseus.costs.parameters import count_params
from nas_theseus.errors import CostError
from nas_theseus.space import COSTS, SearchSpace
from nas_theseus.values import Architecture, BlockChoice, Boundary, Cost

_Key = tuple[object, Boundary, Boundary]


class CostTable:
    """MACs and parameters of every block of a space; an architecture's are their sums.

    Sums are exact because a stitch belongs to its block (design, decision 4). Parameters tied
    between kept parts are counted in each part.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._known: dict[_Key, Cost] = {}

    def of_choice(self, choice: BlockChoice) -> Cost:
        """Cost of one block for its span.

        Raises:
            CostError: an operator cannot be counted; the message names block and operator.
        """
        space = self._space
        inlet, outlet = space.inlet(choice.span), space.outlet(choice.span)
        keeps = space.families[choice.block].keeps
        key: _Key = (
            choice.span if keeps else (choice.block, choice.hyperparameters),
            inlet,
            outlet,
        )
        if key not in self._known:
            module = space.guide.parts[choice.span.start] if keeps else space.build(choice)
            self._known[key] = Cost(count_macs(module, inlet), count_params(module))
        return self._known[key]

    def of(self, architecture: Architecture) -> Cost:
        """Cost of a whole architecture."""
        costs = [self.of_choice(choice) for choice in architecture.choices]
        return Cost(sum(c.macs for c in costs), sum(c.params for c in costs))

    def of_parts(self) -> Cost:
        """Cost of the guide itself."""
        guide = self._space.guide
        macs = sum(count_macs(p, b) for p, b in zip(guide.parts, guide.boundaries, strict=False))
        return Cost(macs, count_params(*guide.parts))

    def range(self, name: str) -> tuple[int, int]:
        """Cheapest and dearest architecture of the space by one cost: shortest and longest path."""
        if name not in COSTS:
            raise ValueError(f"only additive costs have a range: {', '.join(COSTS)}")
        best: dict[int, tuple[int, int]] = {0: (0, 0)}
        for start in range(len(self._space.guide)):
            if start not in best:
                continue
            low, high = best[start]
            for span in (span for span in self._space.fitting if span.start == start):
                costs = [getattr(self.of_choice(c), name) for c in self._space.choices(span)]
                ends = (low + min(costs), high + max(costs))
                known = best.get(span.stop, ends)
                best[span.stop] = (min(known[0], ends[0]), max(known[1], ends[1]))
        return best[len(self._space.guide)]

    def uncountable(self) -> list[str]:
        """Blocks and guide parts with an operator that cannot be counted, each told once."""
        said: dict[str, None] = {}
        try:
            self.of_parts()
        except CostError as error:
            said[f"guide: {error}"] = None
        for span in self._space.fitting:
            for choice in self._space.choices(span):
                try:
                    self.of_choice(choice)
                except CostError as error:
                    said[f"block {choice.block!r}: {error}"] = None
        return list(said)

    def without_logarithm(self) -> list[str]:
        """Costs that are objectives on a log scale, though an architecture has none of them."""
        return [
            f"objective {goal.name!r} is on a log scale, but the cheapest architecture has none; "
            f"use minimize({goal.name!r}, log=False)"
            for goal in self._space.goals
            if goal.log and goal.name in COSTS and self.range(goal.name)[0] <= 0
        ]

    def unmeetable(self) -> list[str]:
        """Constraints that no architecture of the space meets, with the nearest value."""
        said = []
        for limit in self._space.limits:
            if limit.name not in COSTS:
                continue
            low, high = self.range(limit.name)
            if limit.operator == "<=" and low > limit.limit:
                said.append(
                    f"constraint '{limit}' can be met by no architecture: the cheapest has "
                    f"{limit.name} = {low:,}; raise the limit or add cheaper blocks"
                )
            elif limit.operator == ">=" and high < limit.limit:
                said.append(
                    f"constraint '{limit}' can be met by no architecture: the largest has "
                    f"{limit.name} = {high:,}; lower the limit or add larger blocks"
                )
        return said
