"""What a search's folder holds, in the order in which it was saved; runs no code of the space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nas_theseus.errors import StorageError
from nas_theseus.estimate.pareto import at_chance, is_feasible
from nas_theseus.estimate.spread import Spread
from nas_theseus.searches.basis import Basis
from nas_theseus.searches.beginning import Beginning
from nas_theseus.searches.chance import Chance
from nas_theseus.searches.energy import Energy
from nas_theseus.searches.figures import left_out
from nas_theseus.searches.folder import SearchFolder, searches
from nas_theseus.searches.front_files import read_front, read_outcomes
from nas_theseus.searches.repeats import spreads_of
from nas_theseus.storage.json_files import MALFORMED, numbers, read_json
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.goals import Objective
from nas_theseus.values.outcomes import (
    BlockOutcome,
    Evaluation,
    Failure,
    FrontMember,
    Outcome,
    Stopped,
)
from nas_theseus.values.registers import COSTS
from nas_theseus.values.rung import Rung

KEEP = "keep"
_RANDOM = "random"


@dataclass(frozen=True)
class Records:
    """What a search's folder holds; read once, by `Records.read`.

    Attributes:
        basis: None if the search has not measured its guide yet, or is of an earlier version.
        outcomes: of the search's own recipe and seed, in the order in which they were saved.
        blocks: outcomes of the blocks that this search converted, likewise.
        members: the front.
        summary: what the search wrote when it last finished; empty if it has not.
        chance: random architectures with predicted quality; None before the search has finished,
            and in searches of earlier versions.
        energy: of the driver's machine; None if it could not be read.
        random: evaluations of other searches in the same storage, with the same guide, recipe and
            goals, that proposed at random.
    """

    folder: SearchFolder
    begun: Beginning
    basis: Basis | None
    outcomes: tuple[Outcome, ...]
    blocks: tuple[BlockOutcome, ...]
    members: tuple[FrontMember, ...]
    summary: Mapping[str, Any]
    random: tuple[Evaluation, ...] = ()
    chance: Chance | None = None
    energy: Energy | None = None

    @classmethod
    def read(cls, folder: SearchFolder) -> Records:
        """The records of a search, finished, running, interrupted or empty.

        Raises:
            StorageError: no such search, or its settings are damaged.
        """
        begun = Beginning.read(folder)
        return cls(
            folder,
            begun,
            Basis.read(folder),
            tuple(sorted(read_outcomes(folder), key=lambda one: (folder.saved_at(one), one.name))),
            tuple(sorted(folder.block_outcomes(), key=lambda b: (folder.saved_at(b), b.block))),
            read_front(folder),
            _summary(folder),
            tuple(_random(folder, begun)),
            Chance.read(folder),
            Energy.read(folder),
        )

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Candidates that finished."""
        return tuple(one for one in self.outcomes if isinstance(one, Evaluation))

    @cached_property
    def stopped(self) -> tuple[Stopped, ...]:
        """Candidates that a rung stopped."""
        return tuple(one for one in self.outcomes if isinstance(one, Stopped))

    @cached_property
    def failures(self) -> tuple[Failure, ...]:
        """Candidates that could not be evaluated."""
        return tuple(one for one in self.outcomes if isinstance(one, Failure))

    @cached_property
    def feasible(self) -> tuple[Evaluation, ...]:
        """Evaluations that keep the search's limits."""
        limits = self.begun.constraints
        return tuple(one for one in self.evaluations if is_feasible(one, limits))

    @cached_property
    def spreads(self) -> Mapping[str, Spread]:
        """Quality with other seeds, of the front's members that were repeated; by architecture."""
        return spreads_of(self.folder, self.members) if self.members else {}

    @cached_property
    def at_chance(self) -> int:
        """Number of evaluations that are left out of the front as no better than chance."""
        return len(at_chance(self.evaluations, self.begun.constraints))

    @property
    def goals(self) -> tuple[Objective, ...]:
        """Objectives of the search."""
        return self.begun.objectives

    @cached_property
    def costs(self) -> tuple[Objective, ...]:
        """Objectives that are costs."""
        known = {*COSTS}.union(*(one.cost.numbers for one in self.evaluations))
        return tuple(goal for goal in self.goals if goal.name in known)

    @cached_property
    def quality(self) -> Objective | None:
        """The first objective that is no cost."""
        return next((goal for goal in self.goals if goal not in self.costs), None)

    @property
    def guide(self) -> Mapping[str, float]:
        """Quality and costs of the guide; empty if they are not known yet."""
        measured = {} if self.basis is None else dict(self.basis.guide)
        return {**measured, **self.summary.get("guide", {})}

    @property
    def reference(self) -> Mapping[str, float]:
        """The worst values that count in the hypervolume: the search's own, or else the worst."""
        if self.basis is not None:
            return self.basis.reference
        return {
            goal.name: (min if goal.direction == "maximize" else max)(
                one.value(goal.name) for one in self.feasible
            )
            for goal in self.goals
            if self.feasible
        }

    @cached_property
    def rungs(self) -> tuple[Rung, ...]:
        """Rungs of the search; in one of an earlier version, those that its results name."""
        if self.basis is not None:
            return self.basis.rungs
        if self.quality is None:
            return ()
        measured = {name.removeprefix("tau_") for name in self.summary if name.startswith("tau_")}
        names = (measured - {"architectures"}) | {one.rung for one in self.stopped}
        found = {name: _mark(name) for name in names}
        return tuple(
            Rung(name, self.quality.name, mark)
            for name, mark in sorted(found.items(), key=lambda item: item[1])
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the guide's parts, in order; their numbers if the names are not known."""
        if not self.outcomes:
            return ()
        choices = self.outcomes[0].architecture.choices
        return tuple(
            name
            for choice in choices
            for name in choice.span.names or map(str, range(choice.span.start, choice.span.stop))
        )

    @property
    def state(self) -> str:
        """How far the search is, in a sentence."""
        counted = [f"trials_{kind}" for kind in ("done", "stopped", "failed")]
        if not self.outcomes:
            return "This search has begun, and has no result yet."
        ended = f"{len(self.evaluations)} candidates finished, {len(self.stopped)} were stopped "
        ended += f"early and {len(self.failures)} failed."
        ended += f" {left_out(self.at_chance)}." if self.at_chance else ""
        if not self.summary:
            return f"This search has not finished: it runs, or was interrupted. So far {ended}"
        if sum(self.summary.get(name, 0) for name in counted) != len(self.outcomes):
            return f"This search was continued, and has not finished again. So far {ended}"
        return f"This search has finished: {ended}"

    def elapsed(self, outcome: Outcome | BlockOutcome) -> float:
        """Seconds from the search's beginning until a result was saved, pauses included."""
        return max(0.0, self.folder.saved_at(outcome) - self.began_at)

    @cached_property
    def began_at(self) -> float:
        """When the search began, in seconds since 1970."""
        return self.folder.settings_file.stat().st_mtime


def converted(architecture: Architecture) -> list[str]:
    """Blocks of an architecture other than kept parts, as text."""
    return [str(choice) for choice in architecture.choices if choice.block != KEEP]


def is_uniform(architecture: Architecture) -> bool:
    """Whether one block, with the same options, stands for most of the guide's parts."""
    new = converted(architecture)
    covered = sum(len(choice.span) for choice in architecture.choices if choice.block != KEEP)
    return len(new) > 1 and len(set(new)) == 1 and 2 * covered > architecture.stop


def _summary(folder: SearchFolder) -> Mapping[str, Any]:
    try:
        found = read_json(folder.front / "front.json")
        named = {"guide": numbers(found.pop("guide", {}))}
        return named | {name: x for name, x in found.items() if isinstance(x, int | float)}
    except (OSError, *MALFORMED):
        return {}


def _random(folder: SearchFolder, begun: Beginning) -> Sequence[Evaluation]:
    """Evaluations of comparable searches that proposed at random."""
    if begun.sampler == _RANDOM:
        return []
    found: list[Evaluation] = []
    for name in searches(folder.root):
        other = SearchFolder(folder.root, name)
        try:
            its = Beginning.read(other)
            same = (its.guide, its.recipe, its.objectives) == (
                begun.guide,
                begun.recipe,
                begun.objectives,
            )
            if its.sampler == _RANDOM and same:
                found += [one for one in read_outcomes(other) if isinstance(one, Evaluation)]
        except StorageError:  # a damaged neighbour is no reason to say nothing of this search
            continue
    return found


def _mark(rung: str) -> int:
    """Epochs or steps before a rung, by its name."""
    _, _, count = rung.partition("_")
    return int(count) if count.isdigit() else 0
