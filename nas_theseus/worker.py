"""What a worker process does with an architecture: run the candidate, keep its outcome."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas_theseus.candidate import Converted, Workshop
from nas_theseus.errors import ConversionError, TheseusError
from nas_theseus.guide import plain_state
from nas_theseus.space import SearchSpace, load_space
from nas_theseus.storage import Storage, write_tensors
from nas_theseus.values import Architecture, CurvePoint, Evaluation, Failure, Outcome

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerSettings:
    """Everything a worker needs; plain values, so that it travels to any node.

    Attributes:
        space_path, space_text: where the space file was, and what it says.
        guide: the prepared guide's state dict.
        threads: torch threads; a trial's result may depend on their number.
    """

    space_path: str
    space_text: str
    guide: Mapping[str, Tensor]
    storage: Storage
    seed: int
    device: str
    threads: int


class Worker:
    """Runs architectures one after the other; the workshop is shared by all of them."""

    def __init__(self, settings: WorkerSettings) -> None:
        torch.set_num_threads(settings.threads)
        self._settings = settings
        space = load_space(settings.space_path, settings.space_text)
        space.guide.load_state_dict(dict(settings.guide))
        self._workshop = Workshop(space, torch.device(settings.device))

    def __call__(self, architecture: Architecture) -> Generator[str, None, Outcome]:
        """Yields the stage it is in; returns the outcome after it was written.

        A result that an earlier attempt at the same trial kept is returned as it is.
        """
        storage, seed = self._settings.storage, self._settings.seed
        recipe = self._workshop.space.recipe.id
        kept = storage.read_outcome(f"{architecture.id}-{recipe}-{seed}")
        if kept is not None:
            return kept
        outcome: Outcome
        stage = "assemble"
        curve: list[CurvePoint] = []
        steps = self._workshop.run(architecture, seed)
        finished: Converted | None = None
        try:
            while finished is None:
                try:
                    progress = next(steps)
                except StopIteration as end:
                    finished = end.value
                else:
                    stage = progress.stage
                    curve.extend(progress.points)
                    yield stage
            outcome = finished.evaluation
            broken = [p.metric for p in outcome.curve if not math.isfinite(p.value)]
            broken += [name for name, value in outcome.values().items() if not math.isfinite(value)]
            if broken:
                raise ConversionError(f"{broken[0]} is not finite; lower the learning rates")
        except TheseusError as error:
            outcome = Failure(architecture, recipe, seed, stage, str(error), finite(curve))
        except Exception as error:  # a custom block's own; one candidate must not end the search
            logger.exception("architecture %s failed", architecture.id)
            message = f"{type(error).__name__}: {error}"
            outcome = Failure(architecture, recipe, seed, stage, message, finite(curve))
        if finished is not None and isinstance(outcome, Evaluation):
            # Weights first: a result that is there always has its weights.
            write_tensors(storage.weights_of(outcome.name), plain_state(finished.network))
        storage.write_outcome(outcome)
        return outcome


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
    space_path: Path,
    space_text: str,
    storage: Storage,
    *,
    seed: int,
    device: str,
    cpus: float,
) -> WorkerSettings:
    """Settings for the workers of one search, from a space whose guide is prepared."""
    root = Storage(storage.root.resolve(), storage.name)
    state = plain_state(space.guide)
    return WorkerSettings(
        str(space_path.resolve()), space_text, state, root, seed, device, max(1, int(cpus))
    )
