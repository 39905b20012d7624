"""What a worker process does with a job: convert a block, or run a candidate; keep its outcome."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from nas_theseus.candidate.workshop import Converted, Workshop
from nas_theseus.errors import ConversionError, StorageError, TheseusError
from nas_theseus.guide.weights import plain_state
from nas_theseus.library.block_key import BlockKey
from nas_theseus.library.store import Library
from nas_theseus.search.folder import SearchFolder
from nas_theseus.space.load import load_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.space.sources import Sources
from nas_theseus.storage.whole_files import write_tensors
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.outcomes import (
    BlockOutcome,
    CurvePoint,
    Evaluation,
    Failure,
    Outcome,
    Reached,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerSettings:
    """Everything a worker needs; plain values, so that it travels to any node.

    Attributes:
        sources: of the space; workers read no file of its folder.
        guide: the prepared guide's state dict.
        library: where converted blocks are kept; None for a search that uses none.
        threads: torch threads; a trial's result may depend on their number.
    """

    sources: Sources
    guide: Mapping[str, Tensor]
    storage: SearchFolder
    library: str | None
    seed: int
    device: str
    threads: int


class Worker:
    """Runs jobs one after the other; the workshop is shared by all of them."""

    def __init__(self, settings: WorkerSettings) -> None:
        torch.set_num_threads(settings.threads)
        self._settings = settings
        space = load_space(settings.sources)
        space.guide.load_state_dict(dict(settings.guide))
        recipe = space.recipe.model_copy(update={"library": settings.library is not None})
        space = replace(space, recipe=recipe)
        device, folder = torch.device(settings.device), settings.storage.guide_work
        self._workshop = Workshop(space, device, folder)

    @cached_property
    def _library(self) -> Library | None:
        # Opened by the first job: a library that is gone is told as that job's end.
        location = self._settings.library
        return None if location is None else Library(location, create=False)

    def __call__(self, job: BlockKey | Architecture) -> Generator[str | Reached, None, str | None]:
        """Yields the stage it is in, or the rung that it has reached, where it may be left.

        Returns why the job failed after its outcome was written, or None when it did not fail. A
        result that an earlier attempt at the same job kept is not made again.

        Raises:
            StorageError: the storage or the library cannot be used, such as on a full disk. That
                says nothing of the job, so nothing is kept of it.
        """
        try:
            if isinstance(job, BlockKey):
                return (yield from self._block(job))
            return (yield from self._architecture(job))
        finally:
            if self._settings.device == "cuda":
                torch.cuda.empty_cache()  # others share the GPU between this one's trials

    def _block(self, key: BlockKey) -> Generator[str, None, str | None]:
        yield "convert"
        storage, library = self._settings.storage, self._library
        if library is None:
            raise ConversionError(f"block {key} is to be converted, but this search has no library")
        try:
            _, made = self._workshop.keep_block(key, library)
        except StorageError:
            raise
        except Exception as error:  # a custom block's own, too
            message = _told(error, f"block {key}")
            storage.write_block(BlockOutcome(key.id, str(key), failure=message))
            return message
        if made is not None:
            storage.write_block(made)
        return None

    def _architecture(
        self, architecture: Architecture
    ) -> Generator[str | Reached, None, str | None]:
        storage, seed = self._settings.storage, self._settings.seed
        recipe = self._workshop.space.recipe.id
        kept = storage.read_outcome(f"{architecture.id}-{recipe}-{seed}")
        if kept is not None:
            return kept.message if isinstance(kept, Failure) else None
        outcome: Outcome
        stage = "assemble"
        curve: list[CurvePoint] = []
        finished: Converted | None = None
        try:
            steps = self._workshop.run(architecture, seed, library=self._library)
            while finished is None:
                try:
                    progress = next(steps)
                except StopIteration as end:
                    finished = end.value
                else:
                    stage = progress.stage
                    curve.extend(progress.points)
                    if progress.block is not None:
                        storage.write_block(progress.block)
                    if progress.reached is None:
                        yield stage
                    else:
                        _refuse_not_finite(progress.reached.evaluation)
                        yield progress.reached
            outcome = finished.evaluation
            _refuse_not_finite(outcome)
        except StorageError:
            raise
        except Exception as error:  # a custom block's own; one candidate must not end the search
            message = _told(error, f"architecture {architecture.id}")
            outcome = Failure(architecture, recipe, seed, stage, message, finite(curve))
        if finished is not None and isinstance(outcome, Evaluation):
            # Weights first: a result that is there always has its weights.
            write_tensors(storage.weights_of(outcome.name), plain_state(finished.network))
        storage.write_outcome(outcome)
        return outcome.message if isinstance(outcome, Failure) else None


def _refuse_not_finite(evaluation: Evaluation) -> None:
    broken = [p.metric for p in evaluation.curve if not math.isfinite(p.value)]
    broken += [name for name, value in evaluation.values().items() if not math.isfinite(value)]
    if broken:
        raise ConversionError(f"{broken[0]} is not finite; lower the learning rates")


def _told(error: Exception, what: str) -> str:
    """An error as a record holds it; one that was not raised on purpose is logged whole."""
    if isinstance(error, TheseusError):
        return str(error)
    logger.error("%s failed", what, exc_info=error)
    return f"{type(error).__name__}: {error}"


def finite(curve: list[CurvePoint]) -> tuple[CurvePoint, ...]:
    """The points of a curve that a record can hold."""
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
    *,
    seed: int,
    device: str,
    cpus: float,
) -> WorkerSettings:
    """Settings for the workers of one search, from a space whose guide is prepared."""
    root = SearchFolder(storage.root.resolve(), storage.name)
    state = plain_state(space.guide)
    location = None if library is None else library.location
    return WorkerSettings(sources, state, root, location, seed, device, max(1, int(cpus)))
