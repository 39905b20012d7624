"""The ledger: every outcome of one search, what is open, and what is left.

Nothing else in memory holds these facts: display, study, rungs and records derive from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from nas_theseus.estimate.pareto import IncrementalFront, at_chance, hypervolume_of
from nas_theseus.estimate.rungs import RungRecord
from nas_theseus.searches.proposals import Proposal
from nas_theseus.searches.status import Progress
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.goals import Constraint, Objective
from nas_theseus.values.outcomes import Evaluation, Failure, Outcome, Stopped

WAITING = "waiting"
Kind = TypeVar("Kind", Evaluation, Stopped, Failure)


@dataclass
class Open:
    """A proposal without an outcome, and the stage of its trial."""

    proposal: Proposal
    stage: str = WAITING


@dataclass
class _Sums:
    """What the evaluated candidates of a search amount to; see `Progress`."""

    done: int = 0
    stopped: int = 0
    at_chance: int = 0
    train_macs: int = 0
    macs_saved: int = 0
    seconds: float = 0.0

    def add(self, outcome: Evaluation | Stopped, constraints: Sequence[Constraint]) -> None:
        """Count one more candidate."""
        if isinstance(outcome, Stopped):
            self.stopped += 1
            self.macs_saved += outcome.macs_saved
        else:
            self.done += 1
            self.at_chance += len(at_chance([outcome], constraints))
        self.train_macs += _measured(outcome).train_macs_spent
        self.seconds += _measured(outcome).seconds


class Ledger:
    """Every outcome of one search, what is open, and what is left.

    Args:
        wanted: number of trials, those of earlier launches included.
        goals: of the space.
        reference: the worst values that count in the hypervolume, by goal.
        front: an empty one.
        rungs: an empty record.
    """

    def __init__(
        self,
        wanted: int,
        goals: tuple[Objective, ...],
        reference: Mapping[str, float],
        front: IncrementalFront,
        rungs: RungRecord,
    ) -> None:
        self._wanted = wanted
        self._goals = goals
        self._reference = dict(reference)
        self._front = front
        self._rungs = rungs
        self._outcomes: dict[str, Outcome] = {}
        self._sums = _Sums()
        self._open: dict[str, Open] = {}
        self._progress: Progress | None = None

    @property
    def left(self) -> int:
        """How many proposals are still to be made."""
        return max(0, self._wanted - len(self._outcomes) - len(self._open))

    @property
    def open(self) -> int:
        """How many proposals have no outcome yet."""
        return len(self._open)

    @property
    def stages(self) -> dict[str, str]:
        """Stage of each open architecture, by its id."""
        return {name: trial.stage for name, trial in self._open.items()}

    @property
    def waiting(self) -> list[Architecture]:
        """Open architectures that no worker runs yet, oldest first."""
        return [
            trial.proposal.architecture for trial in self._open.values() if trial.stage == WAITING
        ]

    @property
    def evaluations(self) -> list[Evaluation]:
        """All evaluations, in the order in which they were added."""
        return list(self._of_kind(Evaluation))

    @property
    def failures(self) -> list[Failure]:
        """All failures, in the order in which they were added."""
        return list(self._of_kind(Failure))

    @property
    def members(self) -> list[Evaluation]:
        """The evaluations on the front."""
        return self._front.members

    def _of_kind(self, kind: type[Kind]) -> Iterator[Kind]:
        return (outcome for outcome in self._outcomes.values() if isinstance(outcome, kind))

    def outcome_of(self, architecture: Architecture) -> Outcome | None:
        """The outcome of an architecture, if there is one."""
        return self._outcomes.get(architecture.id)

    def propose(self, proposal: Proposal) -> None:
        """A proposal was made; it waits to be run."""
        self._open[proposal.architecture.id] = Open(proposal)

    def move(self, architecture: str, stage: str) -> bool:
        """Set the stage of an open architecture's trial; returns whether it is open."""
        if architecture not in self._open:
            return False
        self._open[architecture].stage = stage
        return True

    def withdraw_waiting(self) -> None:
        """Drop the waiting architectures; the study still has them, for the next launch."""
        self._open = {name: o for name, o in self._open.items() if o.stage != WAITING}

    def promotes(self, evaluation: Evaluation, rung: str) -> bool:
        """Whether a running candidate continues past a rung."""
        self._rungs.take(evaluation, finished=False)
        return self._rungs.promotes(evaluation, rung)

    def predict(self, evaluation: Evaluation, rung: str) -> float:
        """Final quality of a candidate, predicted at a rung."""
        return self._rungs.predict(evaluation, rung)

    def add(self, outcome: Outcome) -> Proposal | None:
        """Add an outcome; returns the proposal that it closes, if one was open.

        A second outcome of an architecture replaces a failure only.
        """
        self._progress = None
        name = outcome.architecture.id
        trial = self._open.pop(name, None)
        if isinstance(outcome, Failure):
            self._outcomes.setdefault(name, outcome)
            self._rungs.forget(name)
        elif not isinstance(self._outcomes.get(name), Evaluation | Stopped):
            self._outcomes[name] = outcome
            self._sums.add(outcome, self._front.constraints)
            finished = isinstance(outcome, Evaluation)
            if isinstance(outcome, Evaluation):
                self._front.add(outcome)
            self._rungs.take(_measured(outcome), finished=finished)
        return None if trial is None else trial.proposal

    @property
    def progress(self) -> Progress:
        """A summary of all outcomes, made again after each new one."""
        if self._progress is None:
            self._progress = self._summed()
        return self._progress

    def _summed(self) -> Progress:
        members, sums = self.members, self._sums
        best = {
            goal.name: (max if goal.direction == "maximize" else min)(
                member.value(goal.name) for member in members
            )
            for goal in self._goals
            if members
        }
        return Progress(
            done=sums.done,
            stopped=sums.stopped,
            failed=len(self._outcomes) - sums.done - sums.stopped,
            front=tuple(member.architecture.id for member in members),
            hypervolume=hypervolume_of(members, self._goals, self._reference) if members else 0.0,
            best=best,
            train_macs=sums.train_macs,
            seconds=sums.seconds,
            at_chance=sums.at_chance,
            macs_saved=sums.macs_saved,
            correlations=self._rungs.correlations(),
            compared=self._rungs.finished,
        )


def _measured(outcome: Evaluation | Stopped) -> Evaluation:
    """Measurements of a candidate, up to its end or to the rung that stopped it."""
    return outcome.evaluation if isinstance(outcome, Stopped) else outcome
