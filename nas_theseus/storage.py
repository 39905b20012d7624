"""Where everything goes under `--storage`, and writes that are whole or not there at all."""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from nas_theseus.architecture import Architecture
from nas_theseus.errors import StorageError
from nas_theseus.ids import SEARCH_NAME
from nas_theseus.results import BlockOutcome, Evaluation, Failure, Outcome, Stopped

# A result in full counts before what an earlier attempt left.
_SUFFIXES = ((Evaluation, ".json"), (Stopped, ".stopped.json"), (Failure, ".failed.json"))


@dataclass(frozen=True)
class Storage:
    """The folder layout of one search inside a storage folder.

    Raises:
        StorageError: the name is none that a search may have, and might lead out of the folder.

    ::

        <root>/guides/<key>.safetensors           trained guides, shared by all searches
        <root>/guide_work/                        activations and logits of guides, shared too
        <root>/library/                           converted blocks, shared by all searches
        <root>/searches/<name>/space.py           the kept copy of the space file
        <root>/searches/<name>/settings.json      seed and sampler, fixed when the search began
        <root>/searches/<name>/study.journal      Optuna's study: the truth of proposals
        <root>/searches/<name>/evaluations/       one JSON a result: the truth of results
        <root>/searches/<name>/blocks/            one JSON a block that it converted or could not
        <root>/searches/<name>/weights/           safetensors of each evaluated architecture
        <root>/searches/<name>/outbox/            records MLflow has not taken yet
        <root>/searches/<name>/front/             front.json, .html, .png; one folder a member
        <root>/searches/<name>/log/               Ray's and the driver's messages
    """

    root: Path
    name: str

    def __post_init__(self) -> None:
        if not SEARCH_NAME.fullmatch(self.name):
            raise StorageError(
                f"{self.name!r} cannot be a search's name: names have up to 100 letters, digits, "
                "'.', '_' and '-', and begin with a letter or digit"
            )

    @property
    def folder(self) -> Path:
        return self.root / "searches" / self.name

    @property
    def guides(self) -> Path:
        return self.root / "guides"

    @property
    def guide_work(self) -> Path:
        return self.root / "guide_work"

    @property
    def library(self) -> Path:
        return self.root / "library"

    @property
    def space_file(self) -> Path:
        return self.folder / "space.py"

    @property
    def settings_file(self) -> Path:
        return self.folder / "settings.json"

    @property
    def journal(self) -> Path:
        return self.folder / "study.journal"

    @property
    def evaluations(self) -> Path:
        return self.folder / "evaluations"

    @property
    def blocks(self) -> Path:
        return self.folder / "blocks"

    @property
    def weights(self) -> Path:
        return self.folder / "weights"

    @property
    def outbox(self) -> Path:
        return self.folder / "outbox"

    @property
    def runs_file(self) -> Path:
        return self.folder / "runs.json"

    @property
    def front(self) -> Path:
        return self.folder / "front"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def lock_file(self) -> Path:
        return self.folder / "driver.lock"

    def create(self) -> None:
        """Make the folders.

        Raises:
            StorageError: the storage cannot be written.
        """
        for folder in (
            self.guides, self.evaluations, self.blocks, self.weights, self.outbox, self.log,
        ):  # fmt: skip
            make_folder(folder, "--storage")

    def weights_of(self, outcome_name: str) -> Path:
        return self.weights / f"{outcome_name}.safetensors"

    def write_outcome(self, outcome: Outcome) -> Path:
        """Keep a result: ``.json``, of a stopped one ``.stopped.json``, a failure ``.failed.json``.

        Raises:
            StorageError: it cannot be written.
        """
        suffix = dict[type, str](_SUFFIXES)[type(outcome)]
        path = self.evaluations / f"{outcome.name}{suffix}"
        write_json(path, outcome.to_json())
        return path

    def read_outcome(self, name: str) -> Outcome | None:
        """The result of one architecture, recipe and seed; None when there is none (yet).

        A damaged file is set aside as ``.damaged``, so that the trial runs again.
        """
        for kind, suffix in _SUFFIXES:
            path = self.evaluations / f"{name}{suffix}"
            if path.exists():
                try:
                    found: Outcome = kind.from_json(json.loads(path.read_text()))
                    return found
                except (ValueError, KeyError, TypeError):
                    path.rename(path.with_suffix(".damaged"))
        return None

    def outcomes(self) -> Iterator[Outcome]:
        """All results, in order of their names."""
        names = {path.name.partition(".")[0] for path in self.evaluations.glob("*.json")}
        for name in sorted(names):
            outcome = self.read_outcome(name)
            if outcome is not None:
                yield outcome

    def write_block(self, outcome: BlockOutcome) -> None:
        """Keep what came of converting a block."""
        write_json(self.blocks / f"{outcome.block}.json", asdict(outcome))

    def read_block(self, block: str) -> BlockOutcome | None:
        """What came of converting a block for this search; None when nothing is known.

        A damaged file is set aside as ``.damaged``; what it said is counted no more.
        """
        path = self.blocks / f"{block}.json"
        try:
            return BlockOutcome(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            path.rename(path.with_suffix(".damaged"))
            return None

    def block_outcomes(self) -> Iterator[BlockOutcome]:
        """All blocks that this search converted or could not, in order of their ids."""
        for path in sorted(self.blocks.glob("*.json")):
            outcome = self.read_block(path.stem)
            if outcome is not None:
                yield outcome


def searches(root: Path) -> list[str]:
    """Names of the searches kept in a storage folder."""
    folder = root / "searches"
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(p.name for p in found if p.is_dir() and SEARCH_NAME.fullmatch(p.name))


def make_folder(folder: Path, option: str) -> None:
    """Make a folder and try to write in it, so that hours of work are not lost for want of it.

    Args:
        option: what on the command line names another one.

    Raises:
        StorageError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-"):
            pass
    except OSError as error:
        raise StorageError(
            f"folder {folder} cannot be written: {error.strerror or error}; give another with "
            f"{option}"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write aside, flushed to the disk and renamed to `path` on leaving.

    A reader sees the old file or the new one; an error leaves the old one and no rest.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    # Its suffix keeps it out of what folders are searched for, such as *.json.
    # Random, since writers on two machines that share the folder may have the same process id.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.aside")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        _flush(aside)
        aside.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another "
            "folder"
        ) from error
    finally:
        with suppress(OSError):
            aside.unlink()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """`replacing` of bytes."""
    with replacing(path) as aside:
        aside.write_bytes(data)


def write_json(path: Path, value: Mapping[str, Any] | list[Any]) -> None:
    """`write_bytes` of a JSON value; NaN is refused."""
    write_bytes(path, json.dumps(value, indent=1, allow_nan=False).encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """`write_bytes` of safetensors."""
    write_bytes(path, safetensors.torch.save(dict(tensors)))


def read_architecture(path: Path) -> Architecture:
    """An architecture from a JSON file (a list of choices, or an object that holds one).

    Raises:
        StorageError: no such file, or not an architecture.
    """
    try:
        data = json.loads(path.read_text())
        return Architecture.from_json(data["architecture"] if isinstance(data, dict) else data)
    except (OSError, ValueError, KeyError) as error:
        raise StorageError(
            f"{path} holds no architecture: {error}; give the architecture.json of a found network"
        ) from error


def read_evaluation(path: Path) -> Evaluation:
    """An evaluation from its JSON file.

    Raises:
        StorageError: no such file, or not an evaluation.
    """
    try:
        return Evaluation.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path} holds no evaluation: {error!r}") from error
