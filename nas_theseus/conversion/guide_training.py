"""Train a guide once and save it under a content hash, so that it is never trained twice."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from filelock import FileLock

from nas_theseus.conversion.finetune import EpochLoss, train
from nas_theseus.conversion.training_checkpoint import Checkpoints
from nas_theseus.errors import GuideError
from nas_theseus.guide.chain import Guide
from nas_theseus.guide.weights import load_weights, plain_state
from nas_theseus.storage.whole_files import write_tensors
from nas_theseus.tasks import Task
from nas_theseus.values.ids import derive_seed, short_hash
from nas_theseus.values.recipe import Recipe

logger = logging.getLogger(__name__)


@runtime_checkable
class LearnsItself(Protocol):
    """A guide with its own training method."""

    def learn(
        self, task: Task, recipe: Recipe, seed: int, checkpoints: Checkpoints | None = None
    ) -> Iterator[EpochLoss]:
        """Train the guide in place, on its device.

        Args:
            checkpoints: one for each training, in an order that is always the same; they are
                removed when the guide is finished.
        """


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
    say: Callable[[str], None] = logger.warning,
) -> Path:
    """Train the guide in place, and save its weights as ``<folder>/<key>.safetensors``.

    If the file exists, the weights are loaded instead. The training is saved after every epoch
    (``<key>.<number>.checkpoint``), and resumes from there after an interruption.

    Args:
        guide: guide with its initial weights; afterwards it has the trained ones, on the CPU.
        training: recipe for task training; None does not train.
        progress: called with each epoch.
        say: shows one line: that the training resumes, or why it begins again.

    Returns:
        Path of the weights file.

    Raises:
        GuideError: the file exists, but is damaged or from another network.
    """
    path = folder / f"{guide_key(guide, task, training)}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    # A second search with the same guide waits here until it is trained.
    with FileLock(path.with_suffix(".lock")):
        checkpoints = Checkpoints(folder, path.stem, lambda line: say(f"guide: {line}"))
        if path.exists():
            _load_trained(guide, path)
        else:
            if training is not None:
                _train(guide, task, training, checkpoints, device, progress)
            _write(guide, path)
        checkpoints.remove()  # also those of a process that was killed before it removed them
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


def _train(
    guide: Guide,
    task: Task,
    training: Recipe,
    checkpoints: Checkpoints,
    device: torch.device,
    progress: Callable[[EpochLoss], None],
) -> None:
    guide.to(device).requires_grad_(True)
    seed = derive_seed("guide", checkpoints.key)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(guide, LearnsItself):
            epochs = guide.learn(task, training, seed, checkpoints)
        else:
            epochs = train(guide, task, training, seed, checkpoint=checkpoints.next())
        for epoch in epochs:
            progress(epoch)
    guide.to("cpu")


def _write(guide: Guide, path: Path) -> None:
    guide.eval()
    state = plain_state(guide)
    broken = [name for name, t in state.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise GuideError(
            f"the guide's weights are not finite after training ({broken[0]}); lower "
            "learning_rate in guide_training"
        )
    write_tensors(path, state)
