"""The front as files and rows: written by a search, read by commands; runs no code of the space."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nas_theseus.errors import StorageError
from nas_theseus.estimate.pareto import IncrementalFront
from nas_theseus.search.folder import SearchFolder
from nas_theseus.storage.whole_files import write_json
from nas_theseus.values.goals import Constraint, Objective
from nas_theseus.values.outcomes import Evaluation, FrontMember, Outcome


def front_rows(members: tuple[FrontMember, ...]) -> list[dict[str, Any]]:
    """The front as plain rows, as `front --json` prints them."""
    return [
        {
            "architecture": member.evaluation.architecture.id,
            "pairing": member.evaluation.architecture.pairing,
            "blocks": member.evaluation.architecture.blocks,
            **member.evaluation.values(),
            **member.test,
            "train_macs_spent": member.evaluation.train_macs_spent,
            "seconds": round(member.evaluation.seconds, 3),
            "run_id": member.run_id,
        }
        for member in members
    ]


def write_front(
    storage: SearchFolder,
    members: tuple[FrontMember, ...],
    guide: Mapping[str, float],
    summary: Mapping[str, float],
) -> None:
    """Keep the front as ``front.json``, with the guide's values and the search's own metrics."""
    write_json(
        storage.front / "front.json",
        {
            "search": storage.name,
            "guide": dict(guide),
            **summary,
            "front": front_rows(members),
        },
    )


def read_runs(storage: SearchFolder) -> dict[str, str]:
    """MLflow run ids by architecture, as far as they are known."""
    try:
        found: dict[str, str] = json.loads(storage.runs_file.read_text())
        return found
    except (OSError, ValueError):
        return {}


def read_beginning(storage: SearchFolder) -> dict[str, Any]:
    """What a search began with, as it was kept.

    Raises:
        StorageError: no such search.
    """
    if not storage.settings_file.is_file():
        raise StorageError(
            f"no search {storage.name!r} in {storage.root}; give its --storage, or start it with "
            "'nas-theseus search'"
        )
    begun: dict[str, Any] = json.loads(storage.settings_file.read_text())
    return begun


def read_outcomes(storage: SearchFolder) -> list[Outcome]:
    """The results of a search that are of its own recipe and seed.

    Raises:
        StorageError: no such search.
    """
    begun = read_beginning(storage)
    own = (begun["recipe"], begun["seed"])
    return [outcome for outcome in storage.outcomes() if (outcome.recipe, outcome.seed) == own]


def read_front(storage: SearchFolder, budget: Sequence[Constraint] = ()) -> tuple[FrontMember, ...]:
    """The front of a search from its evaluations, finished or not; runs no code of the space.

    Args:
        budget: limits beside the search's own.

    Raises:
        StorageError: no such search.
    """
    begun = read_beginning(storage)
    front = IncrementalFront(
        [Objective(**goal) for goal in begun["objectives"]],
        [*(Constraint(**limit) for limit in begun["constraints"]), *budget],
    )
    for outcome in read_outcomes(storage):
        if isinstance(outcome, Evaluation):
            front.add(outcome)
    runs = read_runs(storage)
    members = []
    for evaluation in front.members:
        name = evaluation.architecture.id
        tested = storage.front / name / "test.json"
        test = json.loads(tested.read_text()) if tested.exists() else {}
        members.append(FrontMember(evaluation, 0, test, runs.get(name)))
    return tuple(members)
