"""Proposals as jobs for the cluster; every outcome goes to study, front and tracking."""

from __future__ import annotations

import time

from nas_theseus.costs.table import CostTable
from nas_theseus.errors import ConversionError
from nas_theseus.front import read_runs
from nas_theseus.genome import Genome
from nas_theseus.pareto import IncrementalFront, hypervolume_of
from nas_theseus.progress import Reporter, State
from nas_theseus.services.cluster import Job
from nas_theseus.services.study import Proposal, Study
from nas_theseus.services.tracking import Tracker
from nas_theseus.settings import SearchSettings
from nas_theseus.space import COSTS, MEASURED, SearchSpace
from nas_theseus.storage import Storage
from nas_theseus.thompson import Proposer
from nas_theseus.values import Architecture, Evaluation, Failure, Objective, Outcome


class ProposalJobs:
    """Proposals as jobs for the cluster; every outcome goes to study, front and tracking."""

    def __init__(
        self,
        space: SearchSpace,
        costs: CostTable,
        storage: Storage,
        tracker: Tracker,
        settings: SearchSettings,
        reporter: Reporter,
        guide_values: dict[str, float],
    ) -> None:
        self._space = space
        self._storage = storage
        self._tracker = tracker
        self._settings = settings
        self._reporter = reporter
        self.reference = reference_of(space.goals, guide_values)
        self.evaluations: dict[str, Evaluation] = {}
        self._failed: dict[str, Failure] = {}
        self._exhausted = False
        self._seconds = 0.0
        self._began = time.monotonic()
        self.front = IncrementalFront(space.goals, space.limits)
        self.state = State(settings.name, settings.trials)
        recorded = read_runs(storage)
        for outcome in storage.outcomes():
            if (outcome.recipe, outcome.seed) == (space.recipe.id, settings.seed):
                self._take(outcome)
                # Kept by a worker whose driver died before it could queue the record.
                if outcome.architecture.id not in recorded:
                    self._record(outcome)
        guide = space.guide_architecture()
        self._study = Study(
            settings.name,
            settings.study_url or storage.journal,
            Genome(space),
            space.goals,
            space.limits,
            costs.of,
            self._known,
            sampler=settings.sampler,
            seed=settings.seed,
            proposer=Proposer(space, costs, self.reference),
            warm_starts=[guide] if guide is not None else [],
        )
        self._project()

    @property
    def remaining(self) -> int:
        done = len(self.evaluations) + len(self._failed)
        return max(0, self._settings.trials - done - len(self.state.running))

    def refuse_if_all_failed(self) -> None:
        """End with the first failure when nothing could be evaluated.

        Raises:
            ConversionError: every trial failed.
        """
        if self._failed and not self.evaluations:
            first = next(iter(self._failed.values()))
            raise ConversionError(
                f"all {len(self._failed)} trials failed; the first, architecture "
                f"{first.architecture.id} in stage {first.stage!r}: {first.message}"
            )

    def summary(self) -> dict[str, float]:
        """The search's own metrics."""
        return {
            "hypervolume": self.state.hypervolume,
            "front_size": float(self.state.front_size),
            "trials_done": float(self.state.done),
            "trials_failed": float(self.state.failed),
        }

    def next(self) -> Job | None:
        budget = self._settings.time_budget_s
        if self.remaining == 0:
            self.state.ended_because = f"{self._settings.trials} trials are done"
            return None
        if budget is not None and time.monotonic() - self._began > budget:
            self.state.ended_because = f"the time budget of {budget:g} s is spent"
            return None
        # Asked again while others run: a result may end the exhaustion, time alone does not.
        proposal = None if self._exhausted else self._study.propose()
        if proposal is None:
            self._exhausted = True
            self.state.ended_because = "space exhausted: 200 proposals brought nothing new"
            return None
        self.state.running[proposal.architecture.id] = "waiting"
        self._show()
        return Job(proposal.number, proposal.architecture)

    def reported(self, job: Job, stage: str) -> None:
        if job.architecture.id in self.state.running and stage not in ("done", "failed"):
            self.state.running[job.architecture.id] = stage
            self._show()

    def ended(self, job: Job, worker_error: str | None) -> None:
        self._exhausted = False
        outcome = self._known(job.architecture)
        if outcome is None:
            # Not kept as a file: a dead worker says nothing of the architecture.
            outcome = Failure(
                job.architecture, self._space.recipe.id, self._settings.seed, "worker",
                worker_error or "the worker ended without a result; its messages are in Ray's log",
            )  # fmt: skip
        self.state.running.pop(job.architecture.id, None)
        self._take(outcome)
        self._study.tell(Proposal(job.key, job.architecture), outcome)
        self._record(outcome)
        self._project()

    def _record(self, outcome: Outcome) -> None:
        if isinstance(outcome, Evaluation):
            self._tracker.evaluation(outcome)
        else:
            self._tracker.failure(outcome)

    def _known(self, architecture: Architecture) -> Outcome | None:
        known = self.evaluations.get(architecture.id)
        name = f"{architecture.id}-{self._space.recipe.id}-{self._settings.seed}"
        return known if known is not None else self._storage.read_outcome(name)

    def _take(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            self._failed[outcome.architecture.id] = outcome
        elif outcome.architecture.id not in self.evaluations:
            self.evaluations[outcome.architecture.id] = outcome
            self._seconds += outcome.seconds
            self.front.add(outcome)

    def _project(self) -> None:
        """The front and the search's own metrics, as they are now."""
        members = self.front.members
        state = self.state
        state.done, state.failed = len(self.evaluations), len(self._failed)
        state.front_size = len(members)
        goals = self._space.goals
        state.hypervolume = hypervolume_of(members, goals, self.reference) if members else 0.0
        for goal in goals:
            values = [evaluation.value(goal.name) for evaluation in members]
            if values:
                state.best[goal.name] = (max if goal.direction == "maximize" else min)(values)
        ids = [evaluation.architecture.id for evaluation in members]
        if state.done or state.failed:
            self._tracker.front(ids, self.summary(), state.done + state.failed)
        self._show()

    def _show(self) -> None:
        state = self.state
        state.refused, state.duplicates = self._study.refused, self._study.duplicates
        if self.evaluations:
            mean = self._seconds / len(self.evaluations)
            left = self.remaining + len(state.running)
            state.seconds_left = mean * left / max(1, len(state.running))
        self._reporter.show(state)


def reference_of(goals: tuple[Objective, ...], guide: dict[str, float]) -> dict[str, float]:
    """The worst values that count in the hypervolume: the guide's cost, ten points less quality.

    A quality that is minimised (perplexity) counts up to half as much again as the guide's.
    """
    reference = {}
    for goal in goals:
        if goal.reference is not None:
            reference[goal.name] = goal.reference
        elif goal.name in (*COSTS, *MEASURED):
            reference[goal.name] = guide[goal.name]
        elif goal.direction == "maximize":
            reference[goal.name] = guide[goal.name] - 0.1
        else:
            reference[goal.name] = guide[goal.name] * 1.5
    return reference
