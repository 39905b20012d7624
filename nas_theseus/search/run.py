"""One search from settings to front: joins study, cluster and tracking."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from nas_theseus.convert.finetune import EpochLoss
from nas_theseus.convert.guide_training import LearnsItself, prepare_guide
from nas_theseus.convert.target import assemble
from nas_theseus.costs import measured_costs
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import StorageError
from nas_theseus.estimate.pareto import as_minimised, ranks
from nas_theseus.export.member import member_files, write_member
from nas_theseus.guide.weights import load_weights
from nas_theseus.library.block_key import BlockKeys
from nas_theseus.library.store import Library
from nas_theseus.pictures import of_conversion, of_search
from nas_theseus.search.beginning import (
    check_kept,
    keep_beginning,
    refuse_mistakes,
)
from nas_theseus.search.block_jobs import BlockJobs
from nas_theseus.search.folder import SearchFolder
from nas_theseus.search.forecast import forecast
from nas_theseus.search.front_files import read_outcomes, read_runs, write_front
from nas_theseus.search.jobs import ProposalJobs
from nas_theseus.search.progress import Reporter, State
from nas_theseus.search.worker import MakeWorker, worker_settings
from nas_theseus.services.mlflow import Tracker
from nas_theseus.services.optuna.study import enqueue, reach
from nas_theseus.services.ray import cluster
from nas_theseus.services.ray.nodes import check_nodes
from nas_theseus.space.genome import Genome
from nas_theseus.space.load import load_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.space.sources import Sources, gather
from nas_theseus.stitch.suggestions import stitch_errors, suggested
from nas_theseus.storage.whole_files import write_json
from nas_theseus.tasks.score import score
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.outcomes import Evaluation, FrontMember
from nas_theseus.values.settings import SearchSettings


@dataclass(frozen=True)
class SearchResult:
    """What a search has found so far."""

    name: str
    folder: Path
    front: tuple[FrontMember, ...]
    guide: dict[str, float]
    state: State
    undelivered: int


def run_search(
    source: Path | Sources,
    settings: SearchSettings,
    reporter: Reporter,
    first: Sequence[Architecture] = (),
) -> SearchResult:
    """Run a search, or continue the one of this name, until its trials are done.

    Args:
        source: the space file, or its sources.
        first: architectures to propose next, of a search that has begun. With any, the search ends
            when they and what was open before are done, instead of after `settings.trials`.

    Raises:
        TheseusError: anything a user can mend, before any training where it can be seen there.
    """
    sources = source if isinstance(source, Sources) else gather(source)
    storage = SearchFolder(settings.storage, settings.name)
    check_kept(storage, settings, sources)
    space = load_space(sources, portable=True)
    refuse_mistakes(space, Path(sources.path))
    # Controls align nothing, so they are the same with a library and without.
    with_library = settings.library is not False and not space.recipe.is_control
    recipe = space.recipe.model_copy(update={"library": with_library})
    space = replace(space, recipe=recipe)
    storage.create()
    lock = FileLock(storage.lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StorageError(
            f"search {settings.name!r} in {settings.storage} is already running in another "
            "process; wait for it, or give this one another --name"
        ) from error
    with lock:
        return _run(space, sources, storage, settings, reporter, first)


def _run(
    space: SearchSpace,
    sources: Sources,
    storage: SearchFolder,
    settings: SearchSettings,
    reporter: Reporter,
    first: Sequence[Architecture],
) -> SearchResult:
    cluster.check_device(settings)
    # Reads the data: what cannot be had is told before anything else starts.
    identity = keep_beginning(storage, settings, sources, space)
    if settings.study_url is not None:
        reach(settings.study_url)
    if first:
        journal = settings.study_url or storage.journal
        opened = enqueue(settings.name, journal, Genome(space), space.goals, first)
        ended = {outcome.architecture for outcome in read_outcomes(storage)}
        settings = settings.model_copy(update={"trials": len(ended | opened)})
    library = _open_library(space, storage, settings)
    tracker = Tracker(settings.name, storage.outbox, storage.runs_file, identity=identity)
    tracker.start(_parameters(space, sources, settings))
    try:
        # Joined before the guide is trained: what the cluster lacks is told at once.
        folder = sources.folder if sources.folder.is_dir() else None
        cluster.connect(settings, storage.log, folder)
        try:
            if settings.address is not None:
                check_nodes(storage.log)
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            guide = _prepare_guide(space, storage, device, reporter)
            costs = CostTable(space)
            guide_values = {space.metric: score(space.guide, space.task, "validation")}
            guide_values |= costs.of_parts().known()
            guide_values |= measured_costs(
                space.measured, space.guide, space.task.inlet, torch.device(settings.device),
                threads=max(1, int(settings.cpus_per_trial)),
            )  # fmt: skip
            reporter.say(f"guide: {_figures(guide_values)}")
            parallel = cluster.slots(settings)
            blocks = None
            if library is not None:
                blocks = BlockJobs(BlockKeys(space), library, storage)
            jobs = ProposalJobs(
                space, costs, storage, tracker, settings, reporter, guide_values,
                blocks=blocks, slots=parallel,
                suggest=lambda: _suggestions(space, costs, settings.suggestions, reporter),
            )  # fmt: skip
            reporter.say(forecast(space, storage, jobs.remaining, parallel, device))
            make = MakeWorker(
                worker_settings(
                    space, sources, storage, library,
                    seed=settings.seed, device=settings.device, cpus=settings.cpus_per_trial,
                )
            )  # fmt: skip
            if jobs.remaining:
                cluster.run_jobs(jobs, make, settings, storage.log)
        finally:
            cluster.disconnect()
        jobs.refuse_if_all_failed()
        front = _finish(space, sources, storage, jobs, tracker, guide_values, guide)
    except BaseException:
        with suppress(StorageError):  # a full disk is what is being told already
            tracker.finish("KILLED")
        raise
    undelivered = tracker.finish("FINISHED")
    runs = read_runs(storage)
    members = tuple(
        FrontMember(m.evaluation, m.rank, m.test, runs.get(m.evaluation.architecture.id))
        for m in front
    )
    write_front(storage, members, guide_values, jobs.summary())
    return SearchResult(
        settings.name, storage.folder, members, guide_values, jobs.state, undelivered
    )


def _open_library(
    space: SearchSpace, storage: SearchFolder, settings: SearchSettings
) -> Library | None:
    if not space.recipe.library:
        return None
    return Library(storage.library if settings.library is True else str(settings.library))


def _prepare_guide(
    space: SearchSpace, storage: SearchFolder, device: torch.device, reporter: Reporter
) -> Path:
    training = space.guide_training
    whole = ""  # a guide with its own way to learn decides its epochs itself
    if training is not None and not isinstance(space.guide, LearnsItself):
        whole = f" of {math.ceil(training.epochs)}"

    def told(epoch: EpochLoss) -> None:
        reporter.say(f"guide: epoch {epoch.epoch + 1}{whole}, loss {epoch.loss:.4f}")

    return prepare_guide(space.guide, space.learnt_from, training, storage.guides, device, told)


def _suggestions(
    space: SearchSpace, costs: CostTable, count: int, reporter: Reporter
) -> list[Architecture]:
    """What stitching suggests to begin with."""
    if not count:
        return []
    errors = stitch_errors(space)
    found = suggested(space, costs, errors, count)
    reporter.say(f"{len(errors)} blocks stitched into the guide suggest {len(found)} trials")
    return found


def _finish(
    space: SearchSpace,
    sources: Sources,
    storage: SearchFolder,
    jobs: ProposalJobs,
    tracker: Tracker,
    guide_values: dict[str, float],
    guide_path: Path,
) -> list[FrontMember]:
    """Test quality of the front, its files and pictures; ranks of all evaluations."""
    load_weights(space.guide, guide_path)
    test_name = f"test_{space.task.metric}"
    guide_values[test_name] = _tested(storage.front / "guide-test.json", test_name,
                                      lambda: score(space.guide, space.task, "test"))  # fmt: skip
    members = []
    for evaluation in jobs.front.members:
        folder = storage.front / evaluation.architecture.id
        write_member(folder, evaluation, storage.weights_of(evaluation.name), sources)

        def measure(evaluation: Evaluation = evaluation) -> float:
            target = assemble(space, evaluation.architecture, 0)
            load_weights(target, storage.weights_of(evaluation.name))
            return score(target, space.task, "test")

        test = {test_name: _tested(folder / "test.json", test_name, measure)}
        members.append(FrontMember(evaluation, 0, test))
    for folder in storage.front.iterdir():
        # A former member's folder would still look like a result of the front.
        if folder.is_dir() and folder.name not in {m.evaluation.architecture.id for m in members}:
            shutil.rmtree(folder)
    evaluations = list(jobs.evaluations.values())
    ids = {member.evaluation.architecture.id for member in members}
    if evaluations:
        of_search.write_front(storage.front, evaluations, ids, space.goals, jobs.state.name)
        points = as_minimised(evaluations, space.goals)
        found = dict(zip((e.architecture.id for e in evaluations), ranks(points), strict=True))
        tracker.ranks(found, {m.evaluation.architecture.id: m.test for m in members})
    write_front(storage, tuple(members), guide_values, jobs.summary())
    files = [name for name in ("front.html", "front.png", "front.json")
             if (storage.front / name).exists()]  # fmt: skip
    tracker.artifacts(storage.front, files, None, None)
    for member in members:
        name = member.evaluation.architecture.id
        tracker.artifacts(storage.front / name, member_files(storage.front / name), "network", name)
        drawn = _draw(space, member.evaluation, storage.front / name)
        tracker.artifacts(storage.front / name, drawn, None, name)
    return members


def _draw(space: SearchSpace, evaluation: Evaluation, folder: Path) -> list[str]:
    """Pictures of a member that was aligned; their names."""
    if not evaluation.similarities:
        return []
    drawn = {
        of_conversion.SIMILARITY_FILE: of_conversion.similarity_picture(evaluation),
        of_conversion.CHAIN_FILE: of_conversion.chain_picture(space, evaluation.architecture),
    }
    for name, figure in drawn.items():
        of_conversion.write_picture(figure, folder / name)
    return list(drawn)


def _tested(path: Path, name: str, measure: Callable[[], float]) -> float:
    """A test score, measured once and kept."""
    if path.exists():
        return float(json.loads(path.read_text())[name])
    value = float(measure())
    write_json(path, {name: value})
    return value


def _parameters(
    space: SearchSpace, sources: Sources, settings: SearchSettings
) -> dict[str, str | int | float | bool | None]:
    recipe = {f"recipe.{name}": value for name, value in space.recipe.model_dump().items()}
    return {
        "space": Path(sources.path).name,
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


def _figures(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.4g}" for name, value in values.items())
