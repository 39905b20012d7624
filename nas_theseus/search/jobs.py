"""Proposals as jobs for the cluster; every outcome goes to study, front and tracking."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

from nas_theseus.costs.table import CostTable
from nas_theseus.errors import ConversionError
from nas_theseus.estimate.pareto import IncrementalFront, hypervolume_of
from nas_theseus.estimate.rungs import RungRecord, examples_left, may_stop, rungs_of
from nas_theseus.estimate.thompson import Proposer
from nas_theseus.library.block_key import BlockKey
from nas_theseus.search.block_jobs import BlockJobs
from nas_theseus.search.folder import SearchFolder
from nas_theseus.search.front_files import read_runs
from nas_theseus.search.progress import Reporter, State
from nas_theseus.services.mlflow import Tracker
from nas_theseus.services.optuna.study import Proposal, Study
from nas_theseus.space.genome import Genome
from nas_theseus.space.search_space import COSTS, MEASURED, SearchSpace
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.goals import Objective
from nas_theseus.values.outcomes import Evaluation, Failure, Outcome, Reached, Stopped
from nas_theseus.values.settings import SearchSettings

Job: TypeAlias = BlockKey | Architecture


class ProposalJobs:
    """Proposals as jobs for the cluster; every outcome goes to study, front and tracking.

    Args:
        guide_values: of the guide, by metric and cost.
        blocks: where candidates take blocks from a library: an architecture is handed out when
            its blocks are there, and those that it lacks are handed out before it.
        slots: how many trials run at once.
        suggest: gives architectures that a new search begins with, behind the guide.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: CostTable,
        storage: SearchFolder,
        tracker: Tracker,
        settings: SearchSettings,
        reporter: Reporter,
        guide_values: dict[str, float],
        *,
        blocks: BlockJobs | None = None,
        slots: int = 1,
        suggest: Callable[[], Iterable[Architecture]] = tuple,
    ) -> None:
        self._space = space
        self._storage = storage
        self._tracker = tracker
        self._settings = settings
        self._reporter = reporter
        self._blocks = blocks
        self._slots = slots
        self._open: dict[str, Proposal] = {}
        self._waiting: list[Architecture] = []
        self.reference = reference_of(space.goals, guide_values, growth_of(space, costs))
        self.evaluations: dict[str, Evaluation] = {}
        self._failed: dict[str, Failure] = {}
        self._stopped: dict[str, Stopped] = {}
        rungs = rungs_of(space.recipe, space.metric)
        self._rungs = RungRecord(rungs, space.goals, space.limits)
        self._exhausted = False
        self._seconds, self._macs = 0.0, 0
        self._began = time.monotonic()
        self.front = IncrementalFront(space.goals, space.limits)
        self.state = State(settings.name, settings.trials)
        recorded = read_runs(storage)
        for outcome in storage.outcomes():
            if (outcome.recipe, outcome.seed) == (space.recipe.id, settings.seed):
                self._take(outcome)
                if blocks is not None:
                    blocks.lacking(outcome.architecture)  # those that are there count as its own
                # Kept by a worker whose driver died before it could queue the record.
                if outcome.architecture.id not in recorded:
                    self._record(outcome)
        proposer = Proposer(
            space, costs, self.reference, blocks.errors if blocks else dict,
            known=lambda architecture: self._ended(architecture) is not None,
        )  # fmt: skip
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
            proposer=proposer,
            warm_starts=lambda: [*([guide] if guide is not None else []), *suggest()],
            rungs=rungs,
        )
        self._project()

    @property
    def remaining(self) -> int:
        ended = len(self.evaluations) + len(self._stopped) + len(self._failed)
        return max(0, self._settings.trials - ended - len(self.state.running))

    def refuse_if_all_failed(self) -> None:
        """End with the first failure when nothing could be evaluated.

        Raises:
            ConversionError: every trial failed.
        """
        if self._failed and not self.evaluations and not self._stopped:
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
            "trials_stopped": float(self.state.stopped),
            "train_macs_spent": float(self.state.train_macs_spent),
            "train_macs_saved": float(self.state.macs_saved),
            **{f"tau_{rung}": tau for rung, tau in self.state.correlations.items()},
            "tau_architectures": float(self.state.compared),
            **({} if self.state.blocks is None else self.state.blocks.metrics()),
        }

    def next(self) -> Job | None:
        """A waiting architecture whose blocks are there, a block that one lacks, or a new proposal.

        At most as many proposals are open as trials may run: a sampler learns from what has ended.
        """
        budget = self._settings.time_budget_s
        if budget is not None and time.monotonic() - self._began > budget:
            self.state.ended_because = f"the time budget of {budget:g} s is spent"
            while self._waiting:  # the study has them for the next start
                self.state.running.pop(self._waiting.pop().id, None)
            return None
        while (job := self._waiting_job()) is None:
            if self._waiting and len(self._open) >= self._slots:
                break  # the blocks they lack are being converted
            if not self._propose():
                break
        self._show()
        return job

    def _waiting_job(self) -> Job | None:
        for architecture in self._waiting:
            if self._blocks is None or not self._blocks.lacking(architecture):
                self._waiting.remove(architecture)
                return architecture
        for architecture in self._waiting:
            if self._blocks is not None and (key := self._blocks.start(architecture)) is not None:
                return key
        return None

    def _propose(self) -> bool:
        """Take one more proposal, if there is one."""
        if self.remaining == 0:
            self.state.ended_because = f"{self._settings.trials} trials are done"
            return False
        # Asked again while others run: a result may end the exhaustion, time alone does not.
        proposal = None if self._exhausted else self._study.propose()
        if proposal is None:
            self._exhausted = True
            self.state.ended_because = "space exhausted: 200 proposals brought nothing new"
            return False
        self._open[proposal.architecture.id] = proposal
        self.state.running[proposal.architecture.id] = "waiting"
        self._waiting.append(proposal.architecture)
        self._refuse_broken()
        return True

    def _refuse_broken(self) -> None:
        """End the waiting architectures that need a block which cannot be converted."""
        for architecture in list(self._waiting):
            broken = None if self._blocks is None else self._blocks.broken(architecture)
            if broken is not None:
                self._waiting.remove(architecture)
                failure = Failure(
                    architecture, self._space.recipe.id, self._settings.seed, "convert block",
                    f"block {broken.name}: {broken.failure}",
                )  # fmt: skip
                if self._storage.read_block(broken.block) is not None:
                    # As durable as the block's own failure; else another start may try again.
                    self._storage.write_outcome(failure)
                self._conclude(failure)

    def reported(self, job: Job, stage: str) -> None:
        if job.id in self.state.running and stage not in ("done", "failed"):
            self.state.running[job.id] = stage
            self._show()

    def reached(self, reached: Reached) -> bool:
        evaluation = reached.evaluation
        self._rungs.take(evaluation, finished=False)
        stops = self._settings.rungs and may_stop(self._space.recipe)
        if not stops or self._rungs.goes_on(evaluation, reached.rung):
            return True
        left = examples_left(
            self._space.recipe, self._space.task.size("train"), self._rungs.rungs[reached.rung]
        )
        predicted = {self._space.metric: self._rungs.predict(evaluation, reached.rung)}
        # Forward once, backward twice a forward; a teacher's share is left out.
        stopped = Stopped(reached.rung, evaluation, predicted, 3 * left * evaluation.cost.macs)
        self._storage.write_outcome(stopped)
        return False

    def ended(self, job: Job, failure: str | None) -> None:
        if isinstance(job, BlockKey):
            self._block_ended(job, failure)
            return
        outcome = self._known(job)
        if outcome is None:
            # Not kept as a file: a dead worker says nothing of the architecture.
            outcome = Failure(
                job, self._space.recipe.id, self._settings.seed, "worker",
                failure or "the worker ended without a result; its messages are in Ray's log",
            )  # fmt: skip
        self._conclude(outcome)

    def _block_ended(self, key: BlockKey, failure: str | None) -> None:
        if self._blocks is not None:
            broken = self._blocks.ended(key, failure)
            if broken is not None:
                self._reporter.say(f"block {broken.name} is not converted: {broken.failure}")
                self._refuse_broken()
            self._show()

    def _conclude(self, outcome: Outcome) -> None:
        """Tell everyone who keeps or shows results of one more."""
        self._exhausted = False
        self.state.running.pop(outcome.architecture.id, None)
        self._take(outcome)
        self._study.tell(self._open.pop(outcome.architecture.id), outcome)
        self._record(outcome)
        self._project()

    def _record(self, outcome: Outcome) -> None:
        if isinstance(outcome, Evaluation):
            self._tracker.evaluation(outcome)
        elif isinstance(outcome, Stopped):
            self._tracker.stopped(outcome)
        else:
            self._tracker.failure(outcome)

    def _ended(self, architecture: Architecture) -> Outcome | None:
        ended = (self.evaluations, self._stopped, self._failed)
        return next((kind[architecture.id] for kind in ended if architecture.id in kind), None)

    def _known(self, architecture: Architecture) -> Outcome | None:
        """Asks the storage too, where a worker may have kept what nobody told."""
        name = f"{architecture.id}-{self._space.recipe.id}-{self._settings.seed}"
        return self._ended(architecture) or self._storage.read_outcome(name)

    def _take(self, outcome: Outcome) -> None:
        name = outcome.architecture.id
        if isinstance(outcome, Failure):
            self._failed[name] = outcome
            self._rungs.forget(name)
        elif name not in self.evaluations and name not in self._stopped:
            if isinstance(outcome, Stopped):
                self._stopped[name] = outcome
                evaluation = outcome.evaluation
            else:
                self.evaluations[name] = evaluation = outcome
                self.front.add(evaluation)
            self._rungs.take(evaluation, finished=isinstance(outcome, Evaluation))
            self._seconds += evaluation.seconds
            self._macs += evaluation.train_macs_spent

    def _project(self) -> None:
        """The front and the search's own metrics, as they are now."""
        members = self.front.members
        state = self.state
        state.done, state.failed = len(self.evaluations), len(self._failed)
        state.stopped = len(self._stopped)
        state.macs_saved = sum(stopped.macs_saved for stopped in self._stopped.values())
        state.correlations, state.compared = self._rungs.correlations(), self._rungs.finished
        state.front_size = len(members)
        goals = self._space.goals
        state.hypervolume = hypervolume_of(members, goals, self.reference) if members else 0.0
        for goal in goals:
            values = [evaluation.value(goal.name) for evaluation in members]
            if values:
                state.best[goal.name] = (max if goal.direction == "maximize" else min)(values)
        ids = [evaluation.architecture.id for evaluation in members]
        self._count_blocks()
        if state.ended:
            self._tracker.front(ids, self.summary(), state.ended)
        self._show()

    def _show(self) -> None:
        state = self.state
        state.refused, state.duplicates = self._study.refused, self._study.duplicates
        self._count_blocks()
        if count := len(self.evaluations) + len(self._stopped):
            mean = (self._seconds + (state.blocks.seconds if state.blocks else 0.0)) / count
            left = self.remaining + len(state.running)
            state.seconds_left = mean * left / max(1, len(state.running))
        self._reporter.show(state)

    def _count_blocks(self) -> None:
        counts = None if self._blocks is None else self._blocks.counts
        self.state.blocks = counts
        self.state.train_macs_spent = self._macs + (counts.macs if counts else 0)


def growth_of(space: SearchSpace, costs: CostTable) -> float:
    """How many times the guide's cost a search goes up to: 1 where no block grows the guide."""
    if not any(family.preserves and not family.keeps for family in space.blocks):
        return 1.0
    guide = costs.of_parts().known()
    return max(1.0, *(costs.range(name)[1] / guide[name] for name in COSTS))


def reference_of(
    goals: tuple[Objective, ...], guide: dict[str, float], growth: float = 1.0
) -> dict[str, float]:
    """The worst values that count in the hypervolume: the guide's cost, ten points less quality.

    A quality that is minimised (perplexity) counts up to half as much again as the guide's.

    Args:
        growth: as `growth_of` gives it; costs count up to so many times the guide's.
    """
    reference = {}
    for goal in goals:
        if goal.reference is not None:
            reference[goal.name] = goal.reference
        elif goal.name in (*COSTS, *MEASURED):
            reference[goal.name] = guide[goal.name] * growth
        elif goal.direction == "maximize":
            reference[goal.name] = guide[goal.name] - 0.1
        else:
            reference[goal.name] = guide[goal.name] * 1.5
    return reference
