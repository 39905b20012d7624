"""A search space as a graph: every block for every span is an option with additive costs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.front import AdditiveSpace, Option
from nas_theseus.space.search_space import COSTS, SearchSpace
from nas_theseus.values.architecture import BlockChoice


def options(
    space: SearchSpace,
    costs: CostTable,
    cost_names: Sequence[str] = COSTS,
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
            values = tuple(int(getattr(cost, name)) for name in cost_names)
            yield Option((span.start, share), (span.stop, choice.width_share), choice, values)


def additive_space(
    space: SearchSpace,
    costs: CostTable,
    cost_names: Sequence[str] = COSTS,
    max_labels: int | None = None,
    without: Collection[tuple[BlockChoice, float]] = (),
) -> AdditiveSpace:
    """All architectures of a search space as paths; time and memory grow with blocks only.

    Args:
        cost_names: additive costs of the options, some of `space.COSTS`.
        max_labels: as for `AdditiveSpace`.
        without: as for `options`.

    Raises:
        CostError: a block has an operator that cannot be counted.
        PairingError: no sequence of blocks covers the guide.
    """
    found = list(options(space, costs, cost_names, without))
    start, stop = (0, 1.0), (len(space.guide), 1.0)
    return AdditiveSpace(found, start, stop, cost_names, max_labels)
