"""The driver of a search: hands out jobs, and passes on every outcome."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TypeAlias

from nas_theseus.errors import ConversionError
from nas_theseus.library.block_key import BlockKey
from nas_theseus.searches.block_jobs import BlockJobs
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.ledger import Ledger
from nas_theseus.searches.proposals import Proposals
from nas_theseus.searches.status import Reporter, Status
from nas_theseus.searches.trackers import Trackers
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.events import Reached
from nas_theseus.values.outcomes import Failure, Outcome, Stopped
from nas_theseus.values.recipe import Recipe
from nas_theseus.values.rung import examples_left, may_stop, rungs_of
from nas_theseus.values.tracking import FrontNow

Job: TypeAlias = BlockKey | Architecture


@dataclass(frozen=True)
class Plan:
    """What one launch of a search does.

    Attributes:
        name: of the search.
        recipe, seed: of every candidate.
        metric: the quality that rungs predict.
        examples: in the training split.
        trials: number of trials, those of earlier launches included.
        slots: trials that run at once.
        rungs: whether candidates that fall behind are stopped early.
        time_budget_s: seconds after which no new trial starts.
        all_blocks: whether all blocks are converted before the first trial.
    """

    name: str
    recipe: Recipe
    seed: int
    metric: str
    examples: int
    trials: int
    slots: int = 1
    rungs: bool = True
    time_budget_s: float | None = None
    all_blocks: bool = False

    def outcome_name(self, architecture: Architecture) -> str:
        """File name of an architecture's outcome, without its ending."""
        return f"{architecture.id}-{self.recipe.id}-{self.seed}"


@dataclass(frozen=True)
class Listeners:
    """All that are given every outcome."""

    proposals: Proposals
    trackers: Trackers
    reporter: Reporter


@dataclass
class Driver:
    """Hands out jobs to an executor, and handles their ends.

    Attributes:
        plan: what this launch does.
        ledger: the outcomes so far.
        folder: of the search; workers save their results there.
        listeners: study, trackers and reporter, which are given every outcome.
        blocks: the blocks of a search that uses a library, else None. An architecture is handed
            out once all its blocks are in the library; missing blocks are handed out before it.
            Nothing is proposed while they wait for blocks that are wanted before the first trial.
        ended_because: why no more jobs are handed out; empty while there are more.
    """

    plan: Plan
    ledger: Ledger
    folder: SearchFolder
    listeners: Listeners
    blocks: BlockJobs | None = None
    ended_because: str = ""
    _exhausted: bool = False
    _stopping: dict[str, Stopped] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def status(self) -> Status:
        """The current state of the search."""
        progress, running = self.ledger.progress, self.ledger.stages
        counts = None if self.blocks is None else self.blocks.counts
        seconds_left = None
        if measured := progress.done + progress.stopped:
            each = (progress.seconds + (counts.seconds if counts else 0.0)) / measured
            seconds_left = each * (self.ledger.left + len(running)) / max(1, len(running))
        proposals = self.listeners.proposals
        return Status(
            name=self.plan.name,
            wanted=self.plan.trials,
            progress=progress,
            running=running,
            refused=proposals.refused,
            duplicates=proposals.duplicates,
            blocks=counts,
            seconds_left=seconds_left,
        )

    @property
    def has_work(self) -> bool:
        """Whether trials are left, or blocks that are wanted before the first trial."""
        trials = self.ledger.left + self.ledger.open
        return trials > 0 or (self.blocks is not None and self.blocks.wanted > 0)

    def refuse_if_all_failed(self) -> None:
        """Raise the first failure if no candidate could be evaluated.

        Raises:
            ConversionError: every trial failed.
        """
        failures, progress = self.ledger.failures, self.ledger.progress
        if failures and not progress.done and not progress.stopped:
            first = failures[0]
            raise ConversionError(
                f"all {len(failures)} trials failed; the first, architecture "
                f"{first.architecture.id} in step {first.stage!r}: {first.message}"
            )

    def next(self) -> Job | None:
        """A waiting architecture whose blocks are there, a missing block, or a new proposal.

        At most as many proposals are open as there are slots, since a sampler learns from results.
        """
        budget = self.plan.time_budget_s
        if budget is not None and time.monotonic() - self._began > budget:
            self.ended_because = f"the time budget of {budget:g} s is spent"
            self.ledger.withdraw_waiting()
            return None
        if self.blocks is not None and self.blocks.wanted:
            key = self.blocks.start_wanted()
            if key is not None or self.blocks.wanted:
                self._show()
                return key
        while (job := self._waiting_job()) is None:
            if self.ledger.waiting and self.ledger.open >= self.plan.slots:
                break  # their missing blocks are being converted
            if not self._propose():
                break
        self._show()
        return job

    def _waiting_job(self) -> Job | None:
        waiting = self.ledger.waiting
        for architecture in waiting:
            if self.blocks is None or not self.blocks.lacking(architecture):
                self.ledger.move(architecture.id, "starting")
                return architecture
        for architecture in waiting:
            if self.blocks is not None and (key := self.blocks.start(architecture)) is not None:
                return key
        return None

    def _propose(self) -> bool:
        """Ask for one more proposal; returns whether there was one."""
        if self.ledger.left == 0:
            self.ended_because = f"{self.plan.trials} trials are done"
            return False
        # After that the study is asked again only when a new result has come in.
        proposal = None if self._exhausted else self.listeners.proposals.propose()
        if proposal is None:
            self._exhausted = True
            self.ended_because = "space exhausted: 200 proposals brought nothing new"
            return False
        self.ledger.propose(proposal)
        self._refuse_broken()
        return True

    def _refuse_broken(self) -> None:
        """End the waiting architectures that need a block which cannot be converted."""
        if self.blocks is None:
            return
        for architecture in self.ledger.waiting:
            broken = self.blocks.broken(architecture)
            if broken is None:
                continue
            failure = self._failure(
                architecture, "convert block", f"block {broken.name}: {broken.failure}"
            )
            if self.folder.read_block(broken.block) is not None:
                # Saved only if the block's own failure is; otherwise the next launch tries again.
                self.folder.write_outcome(failure)
            self._conclude(failure)

    def _failure(self, architecture: Architecture, step: str, message: str) -> Failure:
        return Failure(architecture, self.plan.recipe.id, self.plan.seed, step, message)

    def reported(self, job: Job, stage: str) -> None:
        """A running job reached a stage."""
        if self.ledger.move(job.id, stage):
            self._show()

    def promotes(self, reached: Reached) -> bool:
        """Whether a candidate continues past a rung; one that does not is saved as stopped."""
        evaluation, recipe = reached.evaluation, self.plan.recipe
        promotes = self.ledger.promotes(evaluation, reached.rung)
        if promotes or not (self.plan.rungs and may_stop(recipe)):
            return True
        rung = next(r for r in rungs_of(recipe, self.plan.metric) if r.name == reached.rung)
        left = examples_left(recipe, self.plan.examples, rung)
        predicted = {self.plan.metric: self.ledger.predict(evaluation, reached.rung)}
        # One forward pass, and a backward pass of twice its size; a teacher's passes are left out.
        stopped = Stopped(reached.rung, evaluation, predicted, 3 * left * evaluation.cost.macs)
        self.folder.write_outcome(stopped)
        self._stopping[evaluation.architecture.id] = stopped
        return False

    def ended(self, job: Job, failure: str | None) -> None:
        """A job ended; its worker has saved the outcome, unless it died or was stopped."""
        if isinstance(job, BlockKey):
            self._block_ended(job, failure)
            return
        outcome: Outcome | None = self._stopping.pop(job.id, None)
        if outcome is None:
            outcome = self.folder.read_outcome(self.plan.outcome_name(job))
        if outcome is None:
            # Not saved: that a worker died says nothing about the architecture.
            reason = failure or "the worker ended without a result; see Ray's log for its messages"
            outcome = self._failure(job, "worker", reason)
        self._conclude(outcome)

    def _block_ended(self, key: BlockKey, failure: str | None) -> None:
        if self.blocks is not None:
            broken = self.blocks.ended(key, failure)
            if broken is not None:
                self.listeners.reporter.say(
                    f"block {broken.name} cannot be converted: {broken.failure}"
                )
                self._refuse_broken()
            self._show()

    def _conclude(self, outcome: Outcome) -> None:
        """Pass an outcome on to ledger, study and trackers."""
        self._exhausted = False
        proposal = self.ledger.add(outcome)
        if proposal is not None:
            self.listeners.proposals.report(proposal, outcome)
        self.listeners.trackers.outcome(outcome)
        self.record_front()

    def record_front(self) -> None:
        """Send the current front and the search's own metrics to the trackers."""
        status = self.status()
        progress = status.progress
        if progress.ended:
            now = FrontNow(progress.front, status.metrics(), progress.ended)
            self.listeners.trackers.front(now)
        self.listeners.reporter.show(status)

    def _show(self) -> None:
        self.listeners.reporter.show(self.status())
