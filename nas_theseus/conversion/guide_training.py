"""Train a guide once and save it under a content hash, so that it is never trained twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from filelock import FileLock

from nas_theseus.conversion.finetune import EpochLoss, train
from nas_theseus.errors import GuideError
from nas_theseus.guide.chain import Guide
from nas_theseus.guide.weights import load_weights, plain_state
from nas_theseus.storage.whole_files import write_tensors
from nas_theseus.tasks import Task
from nas_theseus.values.ids import derive_seed, short_hash
from nas_theseus.values.recipe import Recipe


@runtime_checkable
class LearnsItself(Protocol):
    """A guide with its own training method."""

    def learn(self, task: Task, recipe: Recipe, seed: int) -> Iterator[EpochLoss]:
        """Train the guide in place, on its device."""


def guide_key(guide: Guide, task: Task, training: Recipe | None) -> str:
    """Hash of everything that a trained guide depends on: initial weights, data and recipe."""
    recipe = None if training is None else training.training
    depends_on = [guide.content_hash(), task.data_hash(), json.dumps(recipe, sort_keys=True)]
    return short_hash(depends_on, 16)


def prepare_guide(
    guide: Guide,
    task: Task,
    training: Recipe | None,
    folder: Path,
    device: torch.device,
    progress: Callable[[EpochLoss], None] = lambda _: None,
) -> Path:
    """Train the guide in place, and save its weights as ``<folder>/<key>.safetensors``.

    If the file exists, the weights are loaded instead.

    Args:
        guide: guide with its initial weights; afterwards it has the trained ones, on the CPU.
        training: recipe for task training; None does not train.

    Returns:
        Path of the weights file.

    Raises:
        GuideError: the file exists, but is damaged or from another network.
    """
    path = folder / f"{guide_key(guide, task, training)}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    # A second search with the same guide waits here until it is trained.
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            _load_trained(guide, path)
        else:
            _make(guide, task, training, path, device, progress)
    return path


def load_prepared(guide: Guide, task: Task, training: Recipe | None, folder: Path) -> None:
    """Load the weights that `prepare_guide` saved; never trains.

    Raises:
        GuideError: the recipe trains the guide but there is no file, or the file is damaged.
    """
    path = folder / f"{guide_key(guide, task, training)}.safetensors"
    if path.exists():
        _load_trained(guide, path)
    elif training is not None:
        raise GuideError(
            f"there is no trained guide at {path}; restore the file, or resume the search, which "
            "trains it again"
        )


def _load_trained(guide: Guide, path: Path) -> None:
    try:
        load_weights(guide, path)
    except GuideError as error:
        raise GuideError(f"{error}. Delete this file to train the guide again") from error


def _make(
    guide: Guide,
    task: Task,
    training: Recipe | None,
    path: Path,
    device: torch.device,
    progress: Callable[[EpochLoss], None],
) -> None:
    if training is not None:
        guide.to(device).requires_grad_(True)
        seed = derive_seed("guide", path.stem)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            learn = guide.learn if isinstance(guide, LearnsItself) else partial(train, guide)
            for epoch in learn(task, training, seed):
                progress(epoch)
        guide.to("cpu")
    guide.eval()
    state = plain_state(guide)
    broken = [name for name, t in state.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise GuideError(
            f"the guide's weights are not finite after training ({broken[0]}); lower "
            "learning_rate in guide_training"
        )
    write_tensors(path, state)
