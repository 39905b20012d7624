"""Writes that are whole or not there at all."""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from nas_theseus.errors import StorageError


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
