"""JSON objects with a checksum: a damaged file is never read as if it held other values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_theseus.storage.json_files import read_json
from nas_theseus.storage.whole_files import write_json

CHECKSUM = "checksum"


def with_checksum(value: Mapping[str, Any]) -> dict[str, Any]:
    """The object with its checksum as one more value."""
    return {**value, CHECKSUM: _checksum(value)}


def write_checked(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with its checksum.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    write_json(path, with_checksum(value))


def read_checked(path: Path) -> dict[str, Any]:
    """The object in a file, without its checksum; files of earlier versions have none.

    Raises:
        ValueError: it is no JSON object, or its checksum does not match.
        OSError: the file cannot be read.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    saved = value.pop(CHECKSUM, None)
    if saved is not None and saved != _checksum(value):
        raise ValueError("its checksum does not match")
    return value


def _checksum(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
