"""Atomic writes: a file is written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from nas_theseus.errors import StorageError

# Name of the digest in the metadata of a safetensors file.
DIGEST = "sha256"
_ASIDE, _PROBE = ".aside", ".probe-"
DAY_S = 86_400.0  # no writer needs that long: an older temporary file was left by a killed one


def make_folder(folder: Path, option: str) -> None:
    """Create a folder and check that it can be written, before hours of work depend on it.

    Args:
        option: command-line option that sets the folder, for the message.

    Raises:
        StorageError: the folder cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=_PROBE):
            pass
    except OSError as error:
        raise StorageError(
            f"folder {folder} cannot be written: {error.strerror or error}; choose another with "
            f"{option}"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Context with a temporary path, which is flushed to disk and renamed to `path` on exit.

    A reader sees either the old or the new file; after an error, only the old one remains. The path
    may also become a folder, which replaces an empty one or none.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    # The suffix keeps the file out of searches of the folder, such as *.json. The name is random,
    # since writers on two machines that share the folder may have the same process id.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{_ASIDE}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        for one in (*aside.rglob("*"), aside):
            _flush(one)
        aside.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another "
            "folder"
        ) from error
    finally:
        _remove(aside)


def leftovers(folder: Path, older_than_s: float = 0.0) -> Iterator[Path]:
    """Temporary files and folders below a folder, which a writer is using or has left behind.

    Args:
        older_than_s: age from which they are listed.
    """
    until_s = time.time() - older_than_s
    for path in folder.rglob(".*"):
        with suppress(OSError):  # its writer may remove it meanwhile
            temporary = path.name.endswith(_ASIDE) or path.name.startswith(_PROBE)
            if temporary and path.lstat().st_mtime <= until_s:
                yield path


def remove_leftovers(folder: Path, older_than_s: float = 0.0) -> None:
    """Remove what writers that were killed have left (`leftovers`); never fails."""
    for path in [*leftovers(folder, older_than_s)]:
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes atomically (`replacing`)."""
    with replacing(path) as aside:
        aside.write_bytes(data)


def write_json(path: Path, value: Mapping[str, Any] | list[Any]) -> None:
    """Write a JSON value atomically; NaN is refused."""
    write_bytes(path, json.dumps(value, indent=1, allow_nan=False).encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors atomically as safetensors, with their `digest` in the file's metadata."""
    write_bytes(path, safetensors.torch.save(dict(tensors), {DIGEST: digest(tensors)}))


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors on the CPU, with their names, types and shapes."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
