"""What a worker process does with a job: convert a block, or run a candidate; save its outcome."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from nas_theseus.candidate.candidate import Converted
from nas_theseus.candidate.workshop import Workshop
from nas_theseus.costs.block_measurements import BlockMeasurements
from nas_theseus.errors import ConversionError, StorageError, TheseusError
from nas_theseus.guide.weights import plain_state
from nas_theseus.library.block_key import BlockKey
from nas_theseus.library.store import Library
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.repeat_job import Repeat
from nas_theseus.space.load import load_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.space.sources import Sources
from nas_theseus.storage.whole_files import write_tensors
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.events import Ended, Progress, Reached
from nas_theseus.values.outcomes import BlockOutcome, CurvePoint, Evaluation, Failure
from nas_theseus.values.resources import Resources

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerSettings:
    """Everything a worker needs, as plain values that can be sent to any node.

    Attributes:
        sources: of the space; a worker reads no files beside the space file.
        guide: the prepared guide's state dict.
        library: location of the library of blocks; None for a search that uses none.
        threads: torch threads; a trial's result may depend on their number.
        measurements: costs measured on blocks, by id; None where there are none.
    """

    sources: Sources
    guide: Mapping[str, Tensor]
    storage: SearchFolder
    library: str | None
    seed: int
    device: str
    threads: int
    measurements: Mapping[str, float] | None = None


def prepared_space(settings: WorkerSettings) -> SearchSpace:
    """The space of a worker, its guide prepared."""
    space = load_space(settings.sources)
    space.guide.load_state_dict(dict(settings.guide))
    recipe = space.recipe.model_copy(update={"library": settings.library is not None})
    return replace(space, recipe=recipe)


class Worker:
    """Runs jobs one after the other; the workshop is shared by all of them."""

    def __init__(self, settings: WorkerSettings) -> None:
        torch.set_num_threads(settings.threads)
        self._settings = settings
        device, folder = torch.device(settings.device), settings.storage.guide_work
        numbers = settings.measurements
        measurements = None if numbers is None else BlockMeasurements(numbers)
        self._workshop = Workshop(prepared_space(settings), device, folder, measurements)

    @cached_property
    def _library(self) -> Library | None:
        # Opened by the first job, so that a missing library is reported as that job's failure.
        location = self._settings.library
        return None if location is None else Library(location, create=False)

    def __call__(self, job: BlockKey | Architecture | Repeat) -> Iterator[str | Reached | Ended]:
        """Yields the steps of a job, the rungs where it may be stopped, and its end.

        The end says why the job failed, after its outcome was saved. If an earlier attempt at the
        same job saved a result, the job ends at once.

        Raises:
            StorageError: the storage or the library cannot be used, for example on a full disk.
                This is no outcome of the job, so none is saved.
        """
        try:
            if isinstance(job, BlockKey):
                yield "convert block"
                yield self._block(job)
            elif isinstance(job, Repeat):
                yield from self._architecture(job.architecture, job.seed, keep_weights=False)
            else:
                yield from self._architecture(job, self._settings.seed)
        finally:
            if self._settings.device == "cuda":
                torch.cuda.empty_cache()  # for others that share the GPU

    def _block(self, key: BlockKey) -> Ended:
        storage, library = self._settings.storage, self._library
        if library is None:
            raise ConversionError(f"block {key} is to be converted, but this search has no library")
        try:
            _, made = self._workshop.keep_block(key, library)
        except StorageError:
            raise
        except Exception as error:  # custom blocks may raise anything
            message = _reason(error, f"block {key}")
            storage.write_block(BlockOutcome(key.id, str(key), failure=message))
            return Ended(message)
        if made is not None:
            storage.write_block(made)
        return Ended()

    def _architecture(
        self, architecture: Architecture, seed: int, *, keep_weights: bool = True
    ) -> Iterator[str | Reached | Ended]:
        storage = self._settings.storage
        recipe = self._workshop.space.recipe.id
        saved = storage.read_outcome(f"{architecture.id}-{recipe}-{seed}")
        if saved is not None:
            yield Ended(saved.message if isinstance(saved, Failure) else None)
            return
        step = ""
        curve: list[CurvePoint] = []
        try:
            for event in self._workshop.convert(architecture, seed, library=self._library):
                if isinstance(event, Progress):
                    curve.extend(event.points)
                    if event.block is not None:
                        storage.write_block(event.block)
                    if event.step != step:  # each event costs the driver time
                        step = event.step
                        yield step
                elif isinstance(event, Reached):
                    _refuse_not_finite(event.evaluation)
                    yield event
                else:
                    self._save(event, keep_weights)
        except StorageError:
            raise
        except Exception as error:  # custom blocks may raise anything
            message = _reason(error, f"architecture {architecture.id}")
            storage.write_outcome(Failure(architecture, recipe, seed, step, message, finite(curve)))
            yield Ended(message)
        else:
            yield Ended()

    def _save(self, converted: Converted, keep_weights: bool) -> None:
        """Save the weights first, then the result, so that a saved result always has weights.

        A repeat tells how far the quality spreads, and needs no weights.
        """
        evaluation = converted.evaluation
        _refuse_not_finite(evaluation)
        storage = self._settings.storage
        if keep_weights:
            write_tensors(storage.weights_of(evaluation.name), plain_state(converted.network))
        storage.write_outcome(evaluation)


def _refuse_not_finite(evaluation: Evaluation) -> None:
    broken = [p.metric for p in evaluation.curve if not math.isfinite(p.value)]
    broken += [name for name, value in evaluation.values().items() if not math.isfinite(value)]
    if broken:
        raise ConversionError(f"{broken[0]} is not finite; lower the learning rates")


def _reason(error: Exception, what: str) -> str:
    """The message of an error for an outcome; an unexpected error is logged with traceback."""
    if isinstance(error, TheseusError):
        return str(error)
    logger.error("%s failed", what, exc_info=error)
    return f"{type(error).__name__}: {error}"


def finite(curve: list[CurvePoint]) -> tuple[CurvePoint, ...]:
    """The points of a curve with finite values, which JSON can hold."""
    return tuple(point for point in curve if math.isfinite(point.value))


@dataclass(frozen=True)
class MakeWorker:
    """Makes the worker in its own process."""

    settings: WorkerSettings

    def __call__(self) -> Worker:
        return Worker(self.settings)


def worker_settings(
    space: SearchSpace,
    sources: Sources,
    storage: SearchFolder,
    library: Library | None,
    seed: int,
    resources: Resources,
) -> WorkerSettings:
    """Settings for the workers of one search.

    Args:
        space: its guide is prepared.
        sources: of the space.
    """
    return WorkerSettings(
        sources,
        plain_state(space.guide),
        SearchFolder(storage.root.resolve(), storage.name),
        None if library is None else library.location,
        seed,
        resources.device,
        resources.threads,
    )
