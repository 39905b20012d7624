"""Open a search: its plan, the ledger of its results on disk, and its reference values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.pareto import IncrementalFront
from nas_theseus.estimate.rungs import RungRecord
from nas_theseus.searches.block_jobs import BlockJobs
from nas_theseus.searches.driver import Plan
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.ledger import Ledger
from nas_theseus.searches.trackers import Trackers
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.goals import Objective
from nas_theseus.values.registers import COSTS
from nas_theseus.values.rung import rungs_of
from nas_theseus.values.settings import SearchSettings


@dataclass(frozen=True)
class Measured:
    """What is known about a space before its search starts.

    Attributes:
        costs: of every block.
        guide_values: quality and costs of the guide.
    """

    space: SearchSpace
    costs: CostTable
    guide_values: Mapping[str, float]

    @property
    def reference(self) -> dict[str, float]:
        """The worst values that count in the hypervolume, by goal."""
        growth = growth_of(self.space, self.costs)
        return reference_of(self.space.goals, self.guide_values, growth)


def plan_of(space: SearchSpace, settings: SearchSettings, slots: int) -> Plan:
    """The plan of a launch with these settings."""
    return Plan(
        name=settings.name,
        recipe=space.recipe,
        seed=settings.seed,
        metric=space.metric,
        examples=space.task.size("train"),
        trials=settings.trials,
        slots=slots,
        rungs=settings.rungs,
        time_budget_s=settings.time_budget_s,
        all_blocks=settings.all_blocks,
    )


def open_ledger(
    measured: Measured,
    plan: Plan,
    folder: SearchFolder,
    trackers: Trackers,
    blocks: BlockJobs | None,
) -> Ledger:
    """A ledger of all outcomes on disk; trackers are sent those that they have not recorded.

    Raises:
        StorageError: the folder cannot be read.
        LibraryError: the library cannot be read.
    """
    space = measured.space
    rungs = RungRecord(rungs_of(plan.recipe, space.metric), space.goals, space.limits)
    front = IncrementalFront(space.goals, space.limits)
    ledger = Ledger(plan.trials, space.goals, measured.reference, front, rungs)
    earlier = []
    for outcome in folder.outcomes():
        if (outcome.recipe, outcome.seed) != (plan.recipe.id, plan.seed):
            continue
        ledger.add(outcome)
        if blocks is not None:
            blocks.look_up(outcome.architecture)
        earlier.append(outcome)
    # A worker may have saved results after its driver died.
    trackers.resume(earlier)
    return ledger


def growth_of(space: SearchSpace, costs: CostTable) -> float:
    """Largest cost of a space as a multiple of the guide's; 1 if no block grows the guide."""
    if not any(family.preserves and not family.keeps for family in space.blocks):
        return 1.0
    guide = costs.of_parts().known()
    # A cost that the guide does not have, such as memory of a kind that only new blocks need, says
    # nothing about growth.
    grown = (costs.range(name)[1] / guide[name] for name in space.additive if guide[name] > 0)
    return max([1.0, *grown])


def reference_of(
    goals: tuple[Objective, ...], guide: Mapping[str, float], growth: float = 1.0
) -> dict[str, float]:
    """The worst values that count in the hypervolume, by goal.

    For costs this is the guide's cost, times `growth`; for a quality, the guide's less 0.1; for a
    minimised quality (perplexity), 1.5 times the guide's. A goal's own reference takes precedence.

    Args:
        growth: as from `growth_of`.
    """
    reference = {}
    for goal in goals:
        if goal.reference is not None:
            reference[goal.name] = goal.reference
        elif goal.name in COSTS:
            more = goal.direction == "maximize"
            reference[goal.name] = guide[goal.name] * (1 / growth if more else growth)
        elif goal.direction == "maximize":
            reference[goal.name] = guide[goal.name] - 0.1
        else:
            reference[goal.name] = guide[goal.name] * 1.5
    return reference
