"""Run a search: from a space file and settings to a front."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from nas_theseus.candidate.workshop import check_room
from nas_theseus.conversion.finetune import EpochLoss
from nas_theseus.conversion.guide_training import LearnsItself, prepare_guide
from nas_theseus.conversion.target import Target
from nas_theseus.costs.table import CostTable
from nas_theseus.costs.taking import measured_costs
from nas_theseus.errors import SpaceError, StorageError
from nas_theseus.estimate.rungs import rungs_of
from nas_theseus.estimate.thompson import Proposer
from nas_theseus.export.member import load
from nas_theseus.library.block_key import BlockKeys
from nas_theseus.library.store import Library
from nas_theseus.pictures.of_search import front_figure
from nas_theseus.searches.beginning import (
    Beginning,
    begin,
    inherit,
    refuse_changes,
    refuse_mistakes,
)
from nas_theseus.searches.block_jobs import BlockJobs
from nas_theseus.searches.block_measuring import compare_sums, measure_blocks
from nas_theseus.searches.driver import Driver, Listeners, Plan
from nas_theseus.searches.execution import Executor
from nas_theseus.searches.finish import Finish
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.forecast import forecast
from nas_theseus.searches.front_files import front_rows, read_front, read_outcomes
from nas_theseus.searches.opening import Measured, open_ledger, plan_of
from nas_theseus.searches.report import LiveReport
from nas_theseus.searches.status import Reporter, Status
from nas_theseus.searches.trackers import Trackers, make_trackers
from nas_theseus.searches.worker import MakeWorker, WorkerSettings, worker_settings
from nas_theseus.services.optuna.storage import reach
from nas_theseus.services.optuna.study import Problem, StudySettings, enqueue, open_study
from nas_theseus.space.consent import remember
from nas_theseus.space.genome import Genome
from nas_theseus.space.left_out import left_out
from nas_theseus.space.load import load_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.space.sources import Sources, gather
from nas_theseus.stitching.suggestions import stitch_errors, suggested
from nas_theseus.tasks.score import score
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.outcomes import Evaluation, Failure, FrontMember
from nas_theseus.values.registers import EXECUTORS, SAMPLERS, TRACKERS
from nas_theseus.values.settings import SearchSettings
from nas_theseus.values.tracking import TrackerContext
from nas_theseus.values.validation import validated

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SearchResult:
    """What a search has found so far.

    Attributes:
        name: of the search.
        folder: of the search; ``folder/front`` has a folder for each member of the front.
        members: the front.
        guide: quality and costs of the guide.
        status: counts of trials and blocks, when the search ended.
        ended_because: why no more trials were started.
        failures: candidates that could not be evaluated, with the reasons.
        undelivered: records that trackers have not taken yet; the next launch delivers them.
    """

    name: str
    folder: Path
    members: tuple[FrontMember, ...]
    guide: Mapping[str, float]
    status: Status
    ended_because: str
    undelivered: int
    failures: tuple[Failure, ...] = ()

    @property
    def front(self) -> list[dict[str, Any]]:
        """The front as plain rows, the cheapest first."""
        return front_rows(self.members)

    def frame(self) -> pd.DataFrame:
        """The front as a table, one row a network."""
        import pandas as pd  # takes a second, and only some need it

        return pd.DataFrame(self.front)

    def plot(self) -> Any:
        """The front and all other evaluations, as a plotly figure."""
        folder = SearchFolder(self.folder.parents[1], self.name)
        evaluations = [o for o in read_outcomes(folder) if isinstance(o, Evaluation)]
        members = {member.evaluation.architecture.id for member in self.members}
        goals = Beginning.read(folder).objectives
        return front_figure(evaluations, members, goals, self.name)

    def load(self, architecture: str) -> Target:
        """One network of the front, in eval mode on the CPU, by the id of its architecture.

        Raises:
            StorageError: the front has no such architecture, or its files are damaged.
        """
        known = [member.evaluation.architecture.id for member in self.members]
        if architecture not in known:
            raise StorageError(
                f"no architecture {architecture!r} on the front of {self.name!r}; there are "
                f"{', '.join(known)}"
            )
        # The space file has just been run, so its code is trusted already.
        return load(self.folder / "front" / architecture, trust_code=True)


def search(
    space: str | Path,
    *,
    trials: int = 20,
    reporter: Reporter | None = None,
    first: Sequence[Architecture] = (),
    **options: Any,
) -> SearchResult:
    """Run a search, or continue the one of this name: finished trials are kept.

    ::

        result = nas_theseus.search("space.py", trials=40, parallel=2)
        result.frame()
        network = result.load(result.front[0]["architecture"])

    Args:
        space: the space file. Its code is run.
        trials: architectures to evaluate in all.
        reporter: shows progress. Default: a panel in a terminal or notebook.
        first: architectures to propose next, of a search that has begun. With any, the search ends
            when they and what was open before are done, instead of after `trials`.
        options: those of ``nas-theseus search`` with underscores: ``name``, ``storage``,
            ``sampler``, ``seed``, ``executor``, ``parallel``, …; what is left out has the default
            of the command line, or is what the search began with.

    Raises:
        TheseusError: anything a user can mend, before any training where it can be seen there.
    """
    path = Path(space)
    settings = settings_of(path, {"trials": trials, **options}, "search")
    sources = gather(path)
    remember(sources)
    if reporter is not None:
        return run_search(sources, settings, reporter, first)
    report = LiveReport(Console())
    status = None
    try:
        result = run_search(sources, settings, report, first)
        status = result.status
    finally:
        report.close(status)
    return result


def settings_of(space_file: Path, options: Mapping[str, Any], where: str) -> SearchSettings:
    """Settings of a launch from flat options, completed from the beginning of its search.

    Args:
        options: as the command line names them, with underscores; None where not given.
        where: what messages call them.

    Raises:
        SpaceError: all mistakes together.
        StorageError: the name is not one that a search may have, or its settings are damaged.
    """
    given = {name: value for name, value in options.items() if value is not None}
    given.setdefault("name", space_file.stem)
    given.setdefault("storage", Path("theseus"))
    resources = {
        name: given.pop(option)
        for option, name in (
            ("cpus_per_trial", "cpus"),
            ("gpus_per_trial", "gpus"),
            ("accelerator_type", "accelerator_type"),
        )
        if option in given
    }
    execution = {
        name: given.pop(name)
        for name in ("executor", "address", "parallel", "max_failures")
        if name in given
    }
    complete = inherit(SearchFolder(Path(given["storage"]), str(given["name"])), given)
    complete["execution"] = {**execution, "resources": resources}
    return validated(SearchSettings, complete, where)


def run_search(
    sources: Sources,
    settings: SearchSettings,
    reporter: Reporter,
    first: Sequence[Architecture] = (),
) -> SearchResult:
    """Run a search, or continue the one of this name, until its trials are done.

    Args:
        sources: of the space, as `gather` reads them.
        first: architectures to propose next, of a search that has begun. With any, the search ends
            when they and what was open before are done, instead of after `settings.trials`.

    Raises:
        TheseusError: anything a user can mend, before any training where it can be seen there.
    """
    folder = SearchFolder(settings.storage, settings.name)
    refuse_changes(folder, settings, sources)
    space = load_space(sources, portable=True)
    refuse_mistakes(space, sources.path)
    refuse_unknown_names(settings)
    for line in left_out(space):
        reporter.say(line)
    # Controls align nothing, so they are the same with a library and without.
    with_library = settings.library is not False and not space.recipe.is_control
    space = replace(space, recipe=space.recipe.model_copy(update={"library": with_library}))
    folder.create()
    lock = FileLock(folder.lock_file)
    try:
        held = lock.acquire(timeout=0)
    except Timeout as error:
        raise StorageError(
            f"search {settings.name!r} in {settings.storage} is already running in another "
            "process; wait for it, or give this one another --name"
        ) from error
    with held:
        return Launch(space, sources, folder, settings, reporter).run(first)


def refuse_unknown_names(settings: SearchSettings) -> None:
    """Refuse names that no register has; asked when the space file has added its own.

    Raises:
        SpaceError: all of them together.
    """
    asked = [
        (SAMPLERS, settings.sampler),
        (EXECUTORS, settings.execution.executor),
        *((TRACKERS, name) for name in settings.trackers),
    ]
    mistakes = [
        f"--{register.kind} {name}: unknown {register.kind} {name!r}; use {register.one_of}"
        for register, name in asked
        if name not in register
    ]
    if mistakes:
        raise SpaceError("search", mistakes)


def open_driver(
    measured: Measured,
    plan: Plan,
    folder: SearchFolder,
    study: StudySettings,
    listeners: tuple[Trackers, Reporter],
    library: Library | None = None,
    warm_starts: Callable[[], Iterable[Architecture]] = tuple,
) -> Driver:
    """A driver over what a search has on disk, with its study open.

    Args:
        measured: of a space whose guide is prepared.
        listeners: who is given outcomes beside the study.
        library: None for a search that uses none.
        warm_starts: what a new study proposes first.

    Raises:
        StorageError, LibraryError, ServiceError: folder, library or study cannot be used.
    """
    space = measured.space
    trackers, reporter = listeners
    blocks = None if library is None else BlockJobs(BlockKeys(space), library, folder)
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
    """One launch of a search, whose folder it has to itself.

    Attributes:
        space: with the library of this search in its recipe.
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
        """From the beginning to the front."""
        executor: Executor = EXECUTORS[self.settings.execution.executor](
            self.settings.execution, self.folder.log
        )
        executor.check()
        # Reads the data: what is missing is reported before anything else starts.
        begun = begin(self.folder, self.settings, self.space, self.sources)
        check_room(self.space, self._device, self.folder.guide_work)
        if self.settings.study_url is not None:
            reach(self.settings.study_url)
        trials = self._enqueue(first) if first else self.settings.trials
        launch = replace(self, settings=self.settings.model_copy(update={"trials": trials}))
        library = launch.open_library()
        trackers = launch.make_trackers(begun)
        trackers.begin(launch.parameters())
        try:
            result = launch.search(executor, library, trackers)
        except BaseException:
            with suppress(StorageError):  # a full disk is what is being reported already
                trackers.end("KILLED")
            raise
        undelivered = trackers.end("FINISHED")
        return replace(result, members=read_front(self.folder), undelivered=undelivered)

    def _enqueue(self, first: Sequence[Architecture]) -> int:
        """Put architectures in front of the study's queue; how many trials that makes."""
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
        """The trackers that were asked for, and the callbacks of the space file."""
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
        # Opened before the guide is trained: what the cluster lacks is reported at once.
        executor.open()
        try:
            guide = self.prepare_guide()
            settings = self.worker_settings(library)
            costs = measure_blocks(self.space, self.folder, executor, settings, self.reporter)
            measured = self.measure_guide(costs)
            driver = self.open_driver(executor.slots, measured, library, trackers)
            remaining, slots = driver.ledger.left + driver.ledger.open, executor.slots
            self.reporter.say(forecast(measured, self.folder, remaining, slots, self._device))
            if remaining:
                settings = replace(settings, measurements=costs.measurements)
                executor.run(driver, MakeWorker(settings), driver.goes_on)
        finally:
            executor.close()
        driver.refuse_if_all_failed()
        status = driver.status()
        values = dict(measured.guide_values)
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

    def prepare_guide(self) -> Path:
        """Train the guide, or load it where it is trained; the file of its weights."""
        training = self.space.guide_training
        unit = "slice" if training is not None and training.steps else "epoch"
        whole = ""  # a guide with its own way to learn decides its epochs itself
        if training is not None and not isinstance(self.space.guide, LearnsItself):
            whole = f" of {math.ceil(training.reports)}"

        def show(epoch: EpochLoss) -> None:
            self.reporter.say(f"guide: {unit} {epoch.epoch + 1}{whole}, loss {epoch.loss:.4f}")

        given = self.space.guide, self.space.learnt_from, training, self.folder.guides
        return prepare_guide(*given, self._device, show, self.reporter.say)

    def measure_guide(self, costs: CostTable) -> Measured:
        """Quality and costs of the guide, which is prepared."""
        space, resources = self.space, self.settings.execution.resources
        values = {space.metric: score(space.guide, space.task, "validation")}
        values |= costs.of_parts().known()
        device = torch.device(resources.device)
        # The driver of a cluster may have no device of the trials' kind.
        parts = list(space.guide.parts) if device.type in ("cpu", self._device.type) else []
        measured = measured_costs(space, space.guide, device, resources.threads, parts)
        values |= {**measured.costs, **measured.beside}
        figures = ", ".join(f"{name} {value:,.4g}" for name, value in values.items())
        self.reporter.say(f"guide: {figures}")
        return Measured(space, costs, values)

    def open_driver(
        self, slots: int, measured: Measured, library: Library | None, trackers: Trackers
    ) -> Driver:
        """The driver, with everything that is on disk taken in."""
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
        """What a new study proposes first: the guide itself, then what stitching suggests."""
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
        """What trackers record of a launch."""
        space, settings = self.space, self.settings
        recipe = {f"recipe.{name}": value for name, value in space.recipe.model_dump().items()}
        return {
            "space": Path(self.sources.path).name,
            "task": space.task.name,
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
