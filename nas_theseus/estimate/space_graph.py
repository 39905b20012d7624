"""A search space as a graph: every block for every span is an option with additive costs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.front import AdditiveSpace, Option
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import BlockChoice


def options(
    space: SearchSpace,
    costs: CostTable,
    cost_names: Sequence[str],
    without: Collection[tuple[BlockChoice, float]] = (),
) -> Iterator[Option]:
    """Every block choice after every inlet width; states are (boundary, width share).

    Args:
        without: (choice, width share of its inlet) pairs to leave out.

    Raises:
        CostError: a block has an operator that cannot be counted.
    """
    for span, share in space.fitting:
        for choice in space.choices(span, share):
            if (choice, share) in without:
                continue
            cost = costs.of_choice(choice, share)
            values = tuple(cost[name] for name in cost_names)
            yield Option((span.start, share), (span.stop, choice.width_share), choice, values)


def additive_space(
    space: SearchSpace,
    costs: CostTable,
    cost_names: Sequence[str] | None = None,
    max_labels: int | None = None,
    without: Collection[tuple[BlockChoice, float]] = (),
) -> AdditiveSpace:
    """All architectures of a search space as paths; time and memory grow with blocks only.

    Args:
        cost_names: additive costs of the options. Default: all of the space's.
        max_labels: as for `AdditiveSpace`.
        without: as for `options`.

    Raises:
        CostError: a block has an operator that cannot be counted.
        PairingError: no sequence of blocks covers the guide.
    """
    cost_names = space.additive if cost_names is None else cost_names
    found = list(options(space, costs, cost_names, without))
    start, stop = (0, 1.0), (len(space.guide), 1.0)
    return AdditiveSpace(found, start, stop, cost_names, max_labels)


def log_unit(low: float, high: float) -> float:
    """What costs of a range are divided by before log1p, so that it spreads them as log does.

    Returns:
        1 for counts; the lowest (the highest where that is 0) of costs below 1, such as 0.003 mJ.
    """
    return min(1.0, low or high) or 1.0
