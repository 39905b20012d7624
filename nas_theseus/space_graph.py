"""A search space as a graph: every block for every span an option with its additive costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nas_theseus.additive_front import AdditiveSpace, Option
from nas_theseus.costs.table import CostTable
from nas_theseus.space import COSTS, SearchSpace


def options(
    space: SearchSpace, costs: CostTable, cost_names: Sequence[str] = COSTS
) -> Iterator[Option]:
    """Every block choice behind every inlet width; states are (boundary, width share).

    Raises:
        CostError: a block has an operator that cannot be counted.
    """
    for span, share in space.fitting:
        for choice in space.choices(span, share):
            cost = costs.of_choice(choice, share)
            values = tuple(int(getattr(cost, name)) for name in cost_names)
            yield Option((span.start, share), (span.stop, choice.width_share), choice, values)


def additive_space(
    space: SearchSpace,
    costs: CostTable,
    cost_names: Sequence[str] = COSTS,
    max_labels: int | None = None,
) -> AdditiveSpace:
    """All architectures of a search space as paths; time and memory grow with blocks, not nets.

    Args:
        cost_names: additive costs that options carry, some of `space.COSTS`.
        max_labels: as `AdditiveSpace` takes it.

    Raises:
        CostError: a block has an operator that cannot be counted.
        PairingError: no row of blocks covers the guide.
    """
    found = list(options(space, costs, cost_names))
    start, stop = (0, 1.0), (len(space.guide), 1.0)
    return AdditiveSpace(found, start, stop, cost_names, max_labels)
