"""Checkpoints of a training: an interrupted training resumes after its last whole epoch."""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas_theseus.errors import StorageError
from nas_theseus.storage.whole_files import write_bytes

_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is.

    Attributes:
        epochs: epochs, or slices of a budget in steps, that are done.
        pieces: how many pieces a batch is computed in.
    """

    epochs: int
    pieces: int = 1


@dataclass
class Checkpoint:
    """The checkpoint of one training, a file that is replaced after every epoch.

    It has the network's state, the optimiser's, the schedule's, and torch's random state, so that
    a resumed training ends with the same weights as one that was never interrupted. The file is
    data: reading it runs no code.

    Args:
        path: the file.
        key: hash of what the training depends on; a file with another key is not used.
        say: shows one line: that the training resumes, or why it cannot.
    """

    path: Path
    key: str
    say: Callable[[str], None]
    _given_up: bool = field(default=False, init=False)

    def resume(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> TrainingProgress | None:
        """Restore the saved state in place, if there is a checkpoint of this training.

        A damaged or foreign file changes nothing, and the reason is shown.

        Returns:
            How far the training was; None to train from the beginning.
        """
        if not self.path.exists():
            return None
        try:
            saved = self._read()
            _restore_whole([network, optimizer, schedule], saved)
        except _UnusableError as error:
            self.say(f"training begins again at epoch 1: its checkpoint {self.path} {error}")
            return None
        progress = TrainingProgress(**saved["progress"])
        self.say(f"training resumes after epoch {progress.epochs}, which was saved in {self.path}")
        return progress

    def _read(self) -> Mapping[str, Any]:
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise _UnusableError(f"cannot be read ({error.strerror or error})") from error
        digest, data = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if hashlib.sha256(data).digest() != digest:
            raise _UnusableError("is damaged")
        try:
            saved: Mapping[str, Any] = torch.load(
                io.BytesIO(data), map_location="cpu", weights_only=True
            )
            key = saved["key"]
        except Exception as error:  # whatever a file of another program makes torch raise
            raise _UnusableError("has other contents than a checkpoint") from error
        if key != self.key:
            raise _UnusableError("is of another training")
        return saved

    def save(
        self,
        progress: TrainingProgress,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        """Save the state after an epoch; a disk that is full is reported and costs no training."""
        if self._given_up:
            return
        written = io.BytesIO()
        state = {
            "key": self.key,
            "progress": asdict(progress),
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "random": _random_state(),
        }
        torch.save(state, written)
        data = written.getvalue()
        try:
            write_bytes(self.path, hashlib.sha256(data).digest() + data)
        except StorageError as error:
            self._given_up = True
            self.say(
                f"the training goes on without checkpoints: {error}. If it is interrupted, it "
                "begins again"
            )


class Checkpoints:
    """The checkpoints of everything that one guide trains, in the order of its trainings.

    Args:
        folder: where the guide's weights are saved.
        key: the guide's key (`guide_key`); the files are ``<folder>/<key>.<number>.checkpoint``.
        say: shows one line.
    """

    def __init__(self, folder: Path, key: str, say: Callable[[str], None]) -> None:
        self.key = key
        self._folder, self._say = folder, say
        self._count = 0

    def next(self) -> Checkpoint:
        """The checkpoint of the next training. A finished training is restored, not repeated."""
        self._count += 1
        name = f"{self.key}.{self._count}"
        return Checkpoint(self._folder / f"{name}.checkpoint", name, self._say)

    def remove(self) -> None:
        """Delete the files: the guide is finished."""
        for path in self._folder.glob(f"{self.key}.*.checkpoint"):
            path.unlink(missing_ok=True)


class _UnusableError(Exception):
    """Why a checkpoint cannot be used; the sentence begins with its path."""


def _restore_whole(holders: Sequence[Any], saved: Mapping[str, Any]) -> None:
    """Restore network, optimiser, schedule and random state; all of them or none.

    Raises:
        _UnusableError: something does not fit.
    """
    before = [copy.deepcopy(holder.state_dict()) for holder in holders]
    try:
        TrainingProgress(**saved["progress"])
        _restore(holders, [saved["network"], saved["optimizer"], saved["schedule"]])
        _set_random_state(saved["random"])
    except Exception as error:  # whatever torch raises for a state of another network
        _restore(holders, before)
        raise _UnusableError("does not fit this network") from error


def _restore(holders: Sequence[Any], states: Sequence[Mapping[str, Any]]) -> None:
    for holder, state in zip(holders, states, strict=True):
        holder.load_state_dict(state)


def _gpus_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _random_state() -> dict[str, Any]:
    """The state of torch's generators, of the CPU and of every GPU that is in use."""
    gpus = torch.cuda.get_rng_state_all() if _gpus_in_use() else []
    return {"cpu": torch.get_rng_state(), "gpus": gpus}


def _set_random_state(saved: Mapping[str, Any]) -> None:
    torch.set_rng_state(saved["cpu"])
    if _gpus_in_use() and len(saved["gpus"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved["gpus"])
