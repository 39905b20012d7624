"""Compare networks by stitching: matrices of stitched quality and CKA, kept cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import torch
from filelock import FileLock, Timeout
from pydantic import Field

from nas_theseus.conversion.guide_training import prepare_guide
from nas_theseus.conversion.stitch_layer import make_stitch
from nas_theseus.conversion.target import recalibrate
from nas_theseus.errors import ConversionError, ShapeError, SpaceError, StorageError
from nas_theseus.guide.chain import Guide
from nas_theseus.guide.weights import plain_state
from nas_theseus.pictures.heatmap import HEATMAP_IMAGE, HEATMAP_PAGE, write_heatmaps
from nas_theseus.searches.execution import Executor
from nas_theseus.services.mlflow import recording
from nas_theseus.space.mistakes import guide_mistakes
from nas_theseus.stitching.cells import Endpoint, StitchRecipe
from nas_theseus.stitching.matrix import Comparison, comparison
from nas_theseus.stitching.measure import refuse_too_few
from nas_theseus.stitching.named_networks import Source, pairs_of, read_sources
from nas_theseus.stitching.rows import MakeRowWorker, Pair, RowSettings
from nas_theseus.storage.whole_files import DAY_S, make_folder, remove_leftovers, write_json
from nas_theseus.tasks import Task
from nas_theseus.tasks.contract import declared_mistakes, used_mistakes
from nas_theseus.tasks.score import score
from nas_theseus.values.ids import short_hash
from nas_theseus.values.outcomes import CurvePoint
from nas_theseus.values.recipe import Recipe
from nas_theseus.values.registers import EXECUTORS
from nas_theseus.values.settings import ExecutorSettings
from nas_theseus.values.validation import Settings, validated

MATRIX_FILE = "matrix.json"

Built: TypeAlias = tuple[Guide, Task, Recipe | None]


class ComparisonSettings(Settings):
    """What one launch of a comparison may use.

    Attributes:
        storage: folder for guides and cells.
        seed: of networks and stitches.
        execution: where rows are measured.
    """

    storage: Path = Path("theseus")
    seed: Annotated[int, Field(ge=0)] = 0
    execution: ExecutorSettings = ExecutorSettings()

    @property
    def device(self) -> torch.device:
        return torch.device(self.execution.resources.device)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network of a comparison, ready: trained, its random twin, and its own quality."""

    source: Source
    trained: Guide
    random: Guide
    task: Task
    quality: float

    @property
    def inner(self) -> tuple[str, ...]:
        """Names of the parts behind which it can be cut."""
        return self.trained.names[:-1]


class RowJobs:
    """Rows that lack cells, as jobs for the cluster."""

    def __init__(self, senders: Sequence[Endpoint], say: Callable[[str], None]) -> None:
        self._waiting = list(senders)
        self._say = say
        self.failures: list[str] = []

    def next(self) -> Endpoint | None:
        return self._waiting.pop(0) if self._waiting else None

    def reported(self, job: Endpoint, stage: str) -> None:
        """Cells tell of themselves as files."""

    def ended(self, job: Endpoint, failure: str | None) -> None:
        if failure is not None:
            self.failures.append(failure)
        self._say(f"{job.id}: {failure or 'done'} ({len(self._waiting)} rows wait)")


def stitch(
    *networks: str,
    task: str = "fashion-mnist",
    width: int = 16,
    train_epochs: float = 4.0,
    every: bool = False,
    settings: ComparisonSettings | None = None,
    say: Callable[[str], None] = print,
    **recipe: Any,
) -> list[Comparison]:
    """Stitch every boundary of one network into every one of another; see `compare`.

    ::

        (found,) = nas_theseus.stitch("resnet1212", "resnet2121", width=8, epochs=1)
        found.quality["trained-trained"]

    Args:
        networks: space files for their guides, or names of ready networks.
        task: of ready networks: ``fashion-mnist``, ``digits`` or a folder of images.
        width: of the first stage of ready networks.
        train_epochs: how long ready networks train.
        every: all ordered pairs, instead of the one pair given.
        settings: where results go and rows run.
        say: shows one line.
        recipe: settings of the stitches, such as ``start="kaiming"``.

    Raises:
        TheseusError: as `compare`.
    """
    pairs = pairs_of(read_sources(networks, task, width, train_epochs), every)
    stitches = validated(StitchRecipe, recipe, "stitches")
    found = compare(pairs, stitches, settings or ComparisonSettings(), say)
    return [comparison for comparison, _ in found]


def compare(
    pairs: Sequence[tuple[Source, Source]],
    recipe: StitchRecipe,
    settings: ComparisonSettings,
    say: Callable[[str], None],
) -> list[tuple[Comparison, Path]]:
    """Measure the cells of every pair that are not kept yet, through Ray; write matrices.

    Cells depend on the networks' weights, data, recipe and seed, which name their folder; what is
    kept there is never measured again.

    Args:
        pairs: sender and receiver each.
        settings: storage, seed, and what the rows may use.

    Returns:
        Each pair's matrices and its folder, which holds them as JSON and heatmaps.

    Raises:
        SpaceError: a task or the shapes of a network are wrong, or the networks are of different
            tasks; all mistakes together, before any training.
        ShapeError: no stitch joins any two boundaries of a pair.
        ConversionError: too few examples for a stitch, or a row failed; the others are kept.
        ServiceError: Ray or MLflow cannot be used.
        StorageError: the storage cannot be written, or this comparison already runs.
    """
    log = settings.storage / "stitching" / "log"
    executor: Executor = EXECUTORS[settings.execution.executor](settings.execution, log)
    executor.check()
    make_folder(settings.storage / "stitching", "--storage")
    built = {source: source.build() for source in dict.fromkeys(s for pair in pairs for s in pair)}
    _refuse_mistakes(built)
    _refuse_other_tasks(built)
    networks = {
        source.label: _prepare(source, *parts, recipe, settings, say)
        for source, parts in built.items()
    }
    kept = tuple(_pair(networks[a.label], networks[b.label], recipe, settings) for a, b in pairs)
    lock = FileLock(settings.storage / "stitching" / "driver.lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout as error:
        raise StorageError(
            f"a comparison in {settings.storage} is already running in another process; wait for "
            "it, or give this one another --storage"
        ) from error
    with held:
        remove_leftovers(settings.storage / "stitching", DAY_S)
        _measure(kept, networks, recipe, settings, executor, say)
    return [_write(pair, networks, recipe, settings) for pair in kept]


def _refuse_mistakes(built: Mapping[Source, Built]) -> None:
    """Refuse networks whose task or shapes are wrong, before any of them is trained."""
    # Each once: a network and its twin of another seed have the same task and shapes.
    spaces = {Path(source.name).stem: parts for source, parts in built.items() if source.sources}
    ready = {f"--task {s.task}": parts for s, parts in built.items() if not s.sources}
    tasks = {label: task for label, (_, task, _) in (spaces | ready).items()}
    mistakes = declared_mistakes(tasks) or [
        *used_mistakes(tasks),
        *(
            f"{label}: {mistake}"
            for label, (guide, task, _) in spaces.items()
            for mistake in guide_mistakes(guide, task)
        ),
    ]
    if mistakes:
        raise SpaceError("networks to stitch", mistakes)


def _prepare(
    source: Source,
    guide: Guide,
    task: Task,
    training: Recipe | None,
    recipe: StitchRecipe,
    settings: ComparisonSettings,
    say: Callable[[str], None],
) -> Prepared:
    random = source.random_twin(guide)
    prepare_guide(
        guide,
        task,
        training,
        settings.storage / "guides",
        settings.device,
        lambda epoch: say(f"{source.label}: epoch {epoch.epoch + 1}, loss {epoch.loss:.4f}"),
        lambda line: say(f"{source.label}: {line}"),
    )
    # Random weights, but norms that have seen the data: else a deep one gives next to nothing.
    recalibrate(random, task, 256, min(recipe.examples, task.size("train")))
    quality = score(guide, task, "validation")
    say(f"{source.label}: {task.metric} {quality:.4f}")
    return Prepared(source, guide, random, task, quality)


def _refuse_other_tasks(built: Mapping[Source, Built]) -> None:
    (source, (_, first, _)), *others = built.items()
    wrong = [
        f"{other.label} is of {task.name} {task.inlet} → {task.outputs}, {source.label} of "
        f"{first.name} {first.inlet} → {first.outputs}; compare networks of one task and one "
        "split of its data"
        for other, (_, task, _) in others
        if (task.inlet, task.outputs, task.data_hash())
        != (first.inlet, first.outputs, first.data_hash())
    ]
    if wrong:
        raise SpaceError("networks to stitch", wrong)


def _pair(
    sender: Prepared, receiver: Prepared, recipe: StitchRecipe, settings: ComparisonSettings
) -> Pair:
    depends_on = [
        sender.trained.content_hash(),
        sender.random.content_hash(),
        receiver.trained.content_hash(),
        receiver.random.content_hash(),
        sender.task.data_hash(),
        recipe.id,
        settings.seed,
    ]
    labels = sender.source.label, receiver.source.label
    name = f"{labels[0]}--{labels[1]}-{short_hash(depends_on, 8)}"
    pair = Pair(*labels, (settings.storage / "stitching" / name).resolve())
    ends = list(pair.cells(sender.trained, receiver.trained))
    if not ends:
        raise ShapeError(
            f"no stitch joins any boundary of {labels[0]} "
            f"({', '.join(map(str, sender.trained.boundaries[1:-1]))}) to one of {labels[1]} "
            f"({', '.join(map(str, receiver.trained.boundaries[1:-1]))}): maps must differ by an "
            "integer factor. Cut elsewhere, or pad the inputs"
        )
    examples = min(recipe.examples, sender.task.size("train"))
    if recipe.start == "least-squares":
        for source, target in ends:
            inlet = sender.trained.boundaries[source.boundary]
            outlet = receiver.trained.boundaries[target.boundary]
            refuse_too_few(make_stitch(inlet, outlet), examples, f"{source.id} → {target.id}")
    return pair


def _measure(
    pairs: Sequence[Pair],
    networks: dict[str, Prepared],
    recipe: StitchRecipe,
    settings: ComparisonSettings,
    executor: Executor,
    say: Callable[[str], None],
) -> None:
    """Run the rows that lack cells."""
    missing = [
        source
        for pair in pairs
        for source, target in pair.cells(
            networks[pair.sender].trained, networks[pair.receiver].trained
        )
        if pair.read(source, target) is None
    ]
    say(f"{len(missing)} cells to measure")
    if not missing:
        return
    states = {
        (label, trained): plain_state(found.trained if trained else found.random)
        for label, found in networks.items()
        for trained in (True, False)
    }
    resources = settings.execution.resources
    row_settings = RowSettings(
        {label: found.source for label, found in networks.items()},
        states,
        tuple(pairs),
        recipe,
        settings.seed,
        resources.device,
        resources.threads,
    )
    jobs = RowJobs(sorted(set(missing)), say)
    executor.open()
    try:
        executor.run(jobs, MakeRowWorker(row_settings))
    finally:
        executor.close()
    if jobs.failures:
        raise ConversionError(
            f"{len(jobs.failures)} rows failed, the first: {jobs.failures[0]}. What was measured "
            "is kept; the same command goes on"
        )


def _write(
    pair: Pair, networks: dict[str, Prepared], recipe: StitchRecipe, settings: ComparisonSettings
) -> tuple[Comparison, Path]:
    """One pair's matrices as JSON, heatmaps and an MLflow run."""
    sender, receiver = networks[pair.sender], networks[pair.receiver]
    ends = pair.cells(sender.trained, receiver.trained)
    cells = [cell for source, target in ends if (cell := pair.read(source, target))]
    found = comparison(
        cells,
        (pair.sender, pair.receiver),
        (sender.inner, receiver.inner),
        (sender.quality, receiver.quality),
    )
    metric = sender.task.metric
    parameters = {
        "sender": pair.sender,
        "receiver": pair.receiver,
        "task": sender.task.name,
        "seed": settings.seed,
        **{f"recipe.{k}": v for k, v in recipe.model_dump().items()},
    }
    with recording(f"{pair.sender} → {pair.receiver}", "stitching", parameters) as run:
        write_json(pair.folder / MATRIX_FILE, found.to_json())
        panels = [
            {f"{metric}, {control}": rows for control, rows in found.quality.items()},
            {f"CKA, {control}": rows for control, rows in found.cka.items()},
        ]
        title = f"{pair.sender} ({sender.quality:.3f}) → {pair.receiver} ({receiver.quality:.3f})"
        write_heatmaps(pair.folder, panels, found.rows, found.columns, title)
        values = found.means()
        triangle = found.triangle_difference()
        if triangle is not None:
            values["triangle_difference"] = triangle
        points = [CurvePoint(name, 0, value) for name, value in values.items()]
        files = dict.fromkeys((MATRIX_FILE, HEATMAP_PAGE, HEATMAP_IMAGE))
        run.keep(None, points, pair.folder, files)
    return found, pair.folder
