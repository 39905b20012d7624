"""The front as files and rows: written by a search, read by commands; runs no code of the space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas_theseus.estimate.pareto import IncrementalFront, at_chance
from nas_theseus.searches.beginning import Beginning
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.storage.checked_json import read_checked
from nas_theseus.storage.json_files import MALFORMED, numbers
from nas_theseus.storage.whole_files import write_json
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.goals import Constraint
from nas_theseus.values.outcomes import Cost, Evaluation, FrontMember, Outcome


def front_rows(members: Sequence[FrontMember]) -> list[dict[str, Any]]:
    """The front as plain rows."""
    return [
        {
            "architecture": member.evaluation.architecture.id,
            "pairing": member.evaluation.architecture.pairing,
            "blocks": member.evaluation.architecture.blocks,
            **member.evaluation.values(),
            **member.test,
            "train_macs_spent": member.evaluation.train_macs_spent,
            "seconds": round(member.evaluation.seconds, 3),
            **({} if member.run_id is None else {"run_id": member.run_id}),
        }
        for member in members
    ]


def write_front(
    folder: SearchFolder,
    members: Sequence[FrontMember],
    guide: Mapping[str, float],
    metrics: Mapping[str, float],
) -> None:
    """Save the front as ``front.json``, with the guide's values and the search's own metrics.

    It holds no run ids: these belong to a tracker, and `read_front` adds those that are known.
    """
    rows = front_rows(members)
    summary = {"search": folder.name, "guide": dict(guide), **metrics, "front": rows}
    write_json(folder.front / "front.json", summary)


def read_outcomes(folder: SearchFolder) -> list[Outcome]:
    """The results of a search that have its own recipe and seed.

    Raises:
        StorageError: no such search.
    """
    begun = Beginning.read(folder)
    own = (begun.recipe, begun.seed)
    return [outcome for outcome in folder.outcomes() if (outcome.recipe, outcome.seed) == own]


def count_at_chance(folder: SearchFolder) -> int:
    """How many evaluations of a search are left out of its front as no better than chance.

    Raises:
        StorageError: no such search.
    """
    limits = Beginning.read(folder).constraints
    done = [outcome for outcome in read_outcomes(folder) if isinstance(outcome, Evaluation)]
    return len(at_chance(done, limits))


def _with_costs(one: Evaluation, counted: Callable[[Architecture], Cost]) -> Evaluation:
    costs = {**counted(one.architecture).numbers, **one.cost.numbers}
    return replace(one, cost=Cost(costs))


def read_front(
    folder: SearchFolder,
    budget: Sequence[Constraint] = (),
    counted: Callable[[Architecture], Cost] | None = None,
) -> tuple[FrontMember, ...]:
    """The front of a search from its evaluations, finished or not; runs no code of the space.

    Args:
        budget: limits in addition to the search's own.
        counted: counts costs that the search itself did not count, for limits on them.

    Raises:
        StorageError: no such search.
    """
    begun = Beginning.read(folder)
    front = IncrementalFront(begun.objectives, [*begun.constraints, *budget])
    for outcome in read_outcomes(folder):
        if isinstance(outcome, Evaluation):
            front.add(outcome if counted is None else _with_costs(outcome, counted))
    runs = folder.run_ids()
    members = []
    for evaluation in front.members:
        name = evaluation.architecture.id
        test = read_scores(folder.front / name / "test.json") or {}
        members.append(FrontMember(evaluation, test, runs.get(name)))
    return tuple(members)


def read_scores(path: Path) -> dict[str, float] | None:
    """Saved test scores by name; None if there are none (yet), or if the file is damaged."""
    try:
        return numbers(read_checked(path))
    except (OSError, *MALFORMED):
        return None
