"""Costs that are measured block by block, before the first trial of a search."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch

from nas_theseus.costs.block_measurements import BlockMeasurements, BlockMeter, Place
from nas_theseus.costs.table import CostTable
from nas_theseus.costs.taking import whole
from nas_theseus.errors import CostError, SpaceError, StorageError, TheseusError
from nas_theseus.searches.execution import Executor
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.status import Reporter
from nas_theseus.searches.worker import WorkerSettings, prepared_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.storage.checked_json import read_checked, write_checked
from nas_theseus.storage.json_files import MALFORMED, numbers
from nas_theseus.values.events import Ended
from nas_theseus.values.outcomes import Evaluation


@dataclass(frozen=True)
class Saved:
    """What a search has measured of its blocks.

    Attributes:
        place: where.
        numbers: by `measurement_id`.
    """

    place: Place
    numbers: Mapping[str, float]


def read_measurements(folder: SearchFolder) -> Saved | None:
    """What a search has measured of its blocks; None before it has.

    Raises:
        StorageError: the file is damaged.
    """
    path = folder.block_measurements
    try:
        data = read_checked(path)
        return Saved(Place(**data["place"]), numbers(data["numbers"]))
    except FileNotFoundError:
        return None
    except (OSError, *MALFORMED) as error:
        raise StorageError(
            f"{path} is damaged ({error!r}); restore it from a backup, or start a new search under "
            "another --name: its results were chosen by these numbers"
        ) from error


def known_costs(space: SearchSpace, folder: SearchFolder) -> CostTable:
    """Costs of a search's blocks as they were counted and measured; nothing is measured.

    Raises:
        StorageError: blocks were not measured, or the file is damaged.
    """
    if not space.measured_by_block:
        return CostTable(space)
    saved = read_measurements(folder)
    if saved is None:
        raise StorageError(
            f"search {folder.name!r} has not measured {', '.join(space.measured_by_block)} of its "
            "blocks yet; continue it with 'nas-theseus search'"
        )
    return CostTable(space, BlockMeasurements(saved.numbers))


@dataclass(frozen=True)
class BlockMeasuring:
    """The job that measures all blocks of a search, one after the other.

    Attributes:
        costs: their names.
    """

    costs: tuple[str, ...]

    @property
    def id(self) -> str:
        return "measure-blocks"

    @property
    def title(self) -> str:
        """Name in dashboards."""
        return f"measure {', '.join(self.costs)} of all blocks"

    def to_json(self) -> list[str]:
        return list(self.costs)

    @classmethod
    def from_json(cls, data: Sequence[str]) -> BlockMeasuring:
        return cls(tuple(data))


class MeasuringWorker:
    """Measures blocks in the process of a trial, with its device and threads."""

    def __init__(self, settings: WorkerSettings) -> None:
        torch.set_num_threads(settings.threads)
        self._settings, self._space = settings, prepared_space(settings)

    def __call__(self, job: BlockMeasuring) -> Iterator[str | Ended]:
        """Yields the stage, and the end with the reason of a failure.

        Raises:
            StorageError: the numbers cannot be saved.
        """
        yield f"measure {', '.join(job.costs)}"
        try:
            self._measure()
        except StorageError:
            raise
        except TheseusError as error:
            yield Ended(str(error))
        else:
            yield Ended()

    def _measure(self) -> None:
        folder, device = self._settings.storage, torch.device(self._settings.device)
        saved = read_measurements(folder)
        numbers = {} if saved is None else saved.numbers
        given = device, self._settings.threads, numbers, self._space.guide
        meter = BlockMeter(folder.block_table, *given)
        if saved is not None and saved.place != meter.place:
            raise CostError(
                f"blocks of search {folder.name!r} were measured on {saved.place}, and some are "
                f"missing, but trials now run on {meter.place}; continue it there, or choose "
                "another --name"
            )
        found = CostTable(self._space, meter).measured()
        write_checked(folder.block_measurements, {"place": asdict(meter.place), "numbers": found})


@dataclass(frozen=True)
class MakeMeasuringWorker:
    """Makes the worker in its own process."""

    settings: WorkerSettings

    def __call__(self) -> MeasuringWorker:
        return MeasuringWorker(self.settings)


@dataclass
class _Once:
    """One job, and why it failed."""

    job: BlockMeasuring | None
    failure: str | None = None
    stages: list[str] = field(default_factory=list)

    def next(self) -> BlockMeasuring | None:
        job, self.job = self.job, None
        return job

    def reported(self, job: BlockMeasuring, stage: str) -> None:
        self.stages.append(stage)

    def ended(self, job: BlockMeasuring, failure: str | None) -> None:
        self.failure = failure


def measure_blocks(
    space: SearchSpace,
    folder: SearchFolder,
    executor: Executor,
    settings: WorkerSettings,
    reporter: Reporter,
) -> CostTable:
    """Costs of all blocks; those that are measured and not known are measured by a trial's worker.

    Args:
        space: its guide is prepared.
        executor: open; nothing else runs on it.

    Raises:
        CostError: a block cannot be measured.
        SpaceError: no architecture keeps a limit, or a cost of 0 is on a log scale.
        StorageError: the numbers cannot be read or saved.
        ServiceError: the executor stopped.
    """
    if not (names := space.measured_by_block):
        return CostTable(space)
    saved = read_measurements(folder)
    known = BlockMeasurements({} if saved is None else saved.numbers)
    if lacking := CostTable(space, known).lacking():
        reporter.say(f"measuring {', '.join(names)}: {lacking} numbers, one block at a time")
        once = _Once(BlockMeasuring(names))
        executor.run(once, MakeMeasuringWorker(settings))
        if once.failure is not None:
            raise CostError(f"costs of blocks could not be measured: {once.failure}")
    costs = known_costs(space, folder)
    if mistakes := [*costs.unmeetable(), *costs.without_logarithm()]:
        raise SpaceError("costs of blocks as measured", mistakes)
    return costs


def sum_errors(evaluations: Sequence[Evaluation], names: Sequence[str]) -> dict[str, float]:
    """Median of |sum of blocks − whole network| / whole network, by cost.

    Args:
        evaluations: of finished networks.
        names: costs that are measured on blocks.
    """
    found = {}
    for name in names:
        pairs = [
            (one.cost[name], one.metrics[whole(name)])
            for one in evaluations
            if one.metrics.get(whole(name)) and name in one.cost.numbers
        ]
        if pairs:
            found[name] = statistics.median(abs(total - real) / real for total, real in pairs)
    return found


def compare_sums(
    evaluations: Sequence[Evaluation], space: SearchSpace, reporter: Reporter
) -> dict[str, float]:
    """Report how far sums of blocks are from whole networks; the search's own metrics of it."""
    errors = sum_errors(evaluations, space.measured_by_block)
    for name, error in errors.items():
        reporter.say(
            f"{name}: sums of blocks differ from whole networks by {error:.1%} (median of "
            f"{len(evaluations)})"
        )
    return {f"{name}_sum_error": error for name, error in errors.items()}
