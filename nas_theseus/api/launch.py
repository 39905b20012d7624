"""One launch of a search: from its settings to a driver, and from there to the front."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from nas_theseus.api.search_result import SearchResult
from nas_theseus.candidate.workshop import check_room
from nas_theseus.conversion.finetune import EpochLoss
from nas_theseus.conversion.guide_training import LearnsItself, prepare_guide
from nas_theseus.costs.table import CostTable
from nas_theseus.costs.taking import measured_costs
from nas_theseus.estimate.thompson import Proposer
from nas_theseus.library.block_key import BlockKeys
from nas_theseus.library.store import Library
from nas_theseus.searches.basis import Basis
from nas_theseus.searches.beginning import Beginning, begin
from nas_theseus.searches.block_jobs import BlockJobs
from nas_theseus.searches.block_measuring import compare_sums, measure_blocks
from nas_theseus.searches.chance import random_architectures
from nas_theseus.searches.driver import Driver, Listeners, Plan
from nas_theseus.searches.energy import EnergyMeter
from nas_theseus.searches.execution import Executor
from nas_theseus.searches.finish import Finish
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.forecast import forecast
from nas_theseus.searches.front_files import read_front, read_outcomes
from nas_theseus.searches.opening import Measured, open_ledger, plan_of
from nas_theseus.searches.status import Reporter
from nas_theseus.searches.trackers import Trackers, make_trackers
from nas_theseus.searches.worker import MakeWorker, WorkerSettings, worker_settings
from nas_theseus.services.optuna.storage import reach
from nas_theseus.services.optuna.study import Problem, StudySettings, enqueue, open_study
from nas_theseus.space.genome import Genome
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.space.sources import Sources
from nas_theseus.stitching.suggestions import stitch_errors, suggested
from nas_theseus.tasks.score import scores
from nas_theseus.tasks.task import SPLITS
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.registers import EXECUTORS
from nas_theseus.values.rung import rungs_of
from nas_theseus.values.settings import SearchSettings
from nas_theseus.values.tracking import TrackerContext


def open_driver(
    measured: Measured,
    plan: Plan,
    folder: SearchFolder,
    study: StudySettings,
    listeners: tuple[Trackers, Reporter],
    library: Library | None = None,
    warm_starts: Callable[[], Iterable[Architecture]] = tuple,
) -> Driver:
    """Open a search's study, and make its driver from the results on disk.

    Args:
        measured: a space whose guide is prepared, with its costs.
        listeners: trackers and reporter, which are given every outcome as the study is.
        library: None for a search that uses none.
        warm_starts: returns the architectures that a new study proposes first.

    Raises:
        StorageError, LibraryError, ServiceError: folder, library or study cannot be used.
    """
    space = measured.space
    trackers, reporter = listeners
    blocks = None
    if library is not None:
        blocks = BlockJobs(BlockKeys(space), library, folder, plan.all_blocks)
    ledger = open_ledger(measured, plan, folder, trackers, blocks)
    proposer = Proposer(
        space,
        measured.costs,
        measured.reference,
        blocks.errors if blocks else dict,
        known=lambda architecture: ledger.outcome_of(architecture) is not None,
    )
    problem = Problem(
        Genome(space),
        space.goals,
        space.limits,
        measured.costs.of,
        rungs_of(plan.recipe, space.metric),
        proposer,
    )
    proposals = open_study(study, problem, ledger.outcome_of, warm_starts)
    return Driver(plan, ledger, folder, Listeners(proposals, trackers, reporter), blocks)


@dataclass(frozen=True)
class Launch:
    """One launch of a search; no other process uses the search's folder meanwhile.

    Attributes:
        space: its recipe says whether this search uses a library.
    """

    space: SearchSpace
    sources: Sources
    folder: SearchFolder
    settings: SearchSettings
    reporter: Reporter

    @cached_property
    def _device(self) -> torch.device:
        """Where the driver trains the guide."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def run(self, first: Sequence[Architecture]) -> SearchResult:
        """Run the search until its trials are done; returns what it found."""
        executor: Executor = EXECUTORS[self.settings.execution.executor](
            self.settings.execution, self.folder.log
        )
        executor.check()
        # Reads the data, so that missing data is reported before anything else starts.
        begun = begin(self.folder, self.settings, self.space, self.sources)
        check_room(self.space, self._device, self.folder.guide_work)
        if self.settings.study_url is not None:
            reach(self.settings.study_url)
        trials = self._enqueue(first) if first else self.settings.trials
        space = replace(self.space, floor=begun.floor)
        settings = self.settings.model_copy(update={"trials": trials})
        launch = replace(self, space=space, settings=settings)
        library = launch.open_library()
        trackers = launch.make_trackers(begun)
        trackers.begin(launch.parameters())
        try:
            result = launch.search(executor, library, trackers)
        except BaseException:
            trackers.end("KILLED")
            raise
        undelivered = trackers.end("FINISHED")
        return replace(result, members=read_front(self.folder), undelivered=undelivered)

    def _enqueue(self, first: Sequence[Architecture]) -> int:
        """Enqueue architectures in the study; returns how many the search then has."""
        journal = self.settings.study_url or self.folder.journal
        genome = Genome(self.space)
        opened = enqueue(self.settings.name, journal, genome, self.space.goals, first)
        ended = {outcome.architecture for outcome in read_outcomes(self.folder)}
        return len(ended | opened)

    def open_library(self) -> Library | None:
        """The library of converted blocks; None for a search that uses none."""
        if not self.space.recipe.library:
            return None
        location = self.settings.library
        return Library(self.folder.library if location is True else str(location))

    def make_trackers(self, begun: Beginning) -> Trackers:
        """The trackers named in the settings, and the callbacks of the space file."""
        context = TrackerContext(
            self.settings.name,
            begun.identity,
            self.folder.folder,
            self.folder.outbox,
            self.folder.runs_file,
        )
        return make_trackers(
            self.settings.trackers,
            self.space.callbacks,
            context,
            self.folder.read_outcome,
            self.reporter.say,
        )

    def search(
        self, executor: Executor, library: Library | None, trackers: Trackers
    ) -> SearchResult:
        """Prepare the guide, run the trials, write the front."""
        # Opened before the guide is trained, so that missing resources are reported at once.
        executor.open()
        meter = EnergyMeter()
        try:
            guide = self.prepare_guide()
            settings = self.worker_settings(library)
            costs = measure_blocks(self.space, self.folder, executor, settings, self.reporter)
            measured = self.measure_guide(costs)
            Basis.of(measured).write(self.folder)
            driver = self.open_driver(executor.slots, measured, library, trackers)
            remaining, slots = driver.ledger.left + driver.ledger.open, executor.slots
            self.reporter.say(forecast(measured, self.folder, remaining, slots, self._device))
            if driver.blocks is not None and (count := driver.blocks.wanted):
                self.reporter.say(f"before the first trial: {count} blocks to convert and score")
            if driver.has_work:
                settings = replace(settings, measurements=costs.measurements)
                executor.run(driver, MakeWorker(settings), driver.promotes)
        finally:
            executor.close()
            if (energy := meter.stop()) is not None:
                energy.add_to(self.folder)
        driver.refuse_if_all_failed()
        status = driver.status()
        values = dict(measured.guide_values)
        self._write_chance(measured, driver)
        finish = Finish(self.space, self.sources, self.folder, guide, values, self.reporter.say)
        metrics = compare_sums(driver.ledger.evaluations, self.space, self.reporter)
        trackers.results(finish.write(driver.ledger, status.metrics() | metrics))
        return SearchResult(
            self.settings.name,
            self.folder.folder,
            (),
            values,
            status,
            driver.ended_because,
            0,
            tuple(driver.ledger.failures),
        )

    def _write_chance(self, measured: Measured, driver: Driver) -> None:
        """Save what random architectures of the space would give, for the report."""
        errors = {} if driver.blocks is None else driver.blocks.errors()
        given = measured.space, measured.costs, driver.ledger.evaluations, errors
        try:
            chance = random_architectures(*given, self.settings.seed)
        except Exception as error:  # a comparison must not cost the results
            said = f"{type(error).__name__}: {error}"
            self.reporter.say(f"random architectures could not be predicted: {said}")
            return
        if chance is not None:
            chance.write(self.folder)

    def prepare_guide(self) -> Path:
        """Train the guide, or load its trained weights; returns the file of its weights."""
        training = self.space.guide_training
        unit = "slice" if training is not None and training.steps else "epoch"
        whole = ""  # a guide that trains itself decides its number of epochs
        if training is not None and not isinstance(self.space.guide, LearnsItself):
            whole = f" of {math.ceil(training.reports)}"

        def show(epoch: EpochLoss) -> None:
            self.reporter.say(f"guide: {unit} {epoch.epoch + 1}{whole}, loss {epoch.loss:.4f}")

        given = self.space.guide, self.space.learnt_from, training, self.folder.guides
        return prepare_guide(*given, self._device, show, self.reporter.say)

    def measure_guide(self, costs: CostTable) -> Measured:
        """Measure quality and costs of the prepared guide."""
        space, resources = self.space, self.settings.execution.resources
        found = scores(space.guide, space.task, "validation")
        values = {f"val_{name}": value for name, value in found.items()}
        values |= costs.of_parts().known()
        device = torch.device(resources.device)
        # The driver of a cluster may have no device of the trials' kind.
        parts = list(space.guide.parts) if device.type in ("cpu", self._device.type) else []
        measured = measured_costs(space, space.guide, device, resources.threads, parts)
        values |= {**measured.costs, **measured.beside}
        figures = ", ".join(f"{name} {value:,.4g}" for name, value in values.items())
        self.reporter.say(f"guide: {figures}")
        if note := getattr(space.task, "note", None):
            self.reporter.say(note)
        return Measured(space, costs, values)

    def open_driver(
        self, slots: int, measured: Measured, library: Library | None, trackers: Trackers
    ) -> Driver:
        """Make the driver from all results on disk, and record the front so far."""
        settings = self.settings
        study = StudySettings(
            settings.name,
            settings.study_url or self.folder.journal,
            settings.sampler,
            settings.seed,
        )
        driver = open_driver(
            measured,
            plan_of(self.space, settings, slots),
            self.folder,
            study,
            (trackers, self.reporter),
            library,
            lambda: self._warm_starts(measured),
        )
        driver.record_front()
        return driver

    def _warm_starts(self, measured: Measured) -> list[Architecture]:
        """Architectures that a new study proposes first: the guide, then those of stitching."""
        guide = self.space.guide_architecture()
        found = [] if guide is None else [guide]
        if count := self.settings.suggestions:
            errors = stitch_errors(self.space)
            suggestions = suggested(self.space, measured.costs, errors, count)
            self.reporter.say(
                f"{len(errors)} blocks stitched into the guide suggest {len(suggestions)} trials"
            )
            found += suggestions
        return found

    def worker_settings(self, library: Library | None) -> WorkerSettings:
        """What workers need, without measurements of blocks."""
        given = self.space, self.sources, self.folder, library, self.settings.seed
        return worker_settings(*given, self.settings.execution.resources)

    def parameters(self) -> dict[str, str | int | float | bool | None]:
        """Parameters of this launch, for trackers to record."""
        space, settings = self.space, self.settings
        recipe = {f"recipe.{name}": value for name, value in space.recipe.model_dump().items()}
        return {
            "space": Path(self.sources.path).name,
            "task": space.task.name,
            "data.hash": space.task.data_hash(),
            **{f"data.{split}": space.task.size(split) for split in SPLITS},
            "parts": len(space.guide),
            "architectures": str(space.count()),
            "trials": settings.trials,
            "sampler": settings.sampler,
            "seed": settings.seed,
            "rungs": settings.rungs,
            "suggestions": settings.suggestions,
            "constraints": ", ".join(map(str, space.limits)) or "none",
            **recipe,
        }
