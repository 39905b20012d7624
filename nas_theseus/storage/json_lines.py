"""An append-only file of JSON objects, one per line."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nas_theseus.errors import StorageError
from nas_theseus.storage.json_files import parse_json

_log = logging.getLogger(__name__)


class JsonLines:
    """A file of JSON objects, one per line; incomplete lines are removed.

    A killed process or a full disk may leave an incomplete line at the end. The next `append` first
    moves it to a file with the suffix ``.torn``, so that nothing is appended to it. Only one
    process at a time may append; others may read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Iterator[dict[str, Any]]:
        """The objects in the file, oldest first; lines that are not JSON objects are skipped.

        Raises:
            StorageError: the file exists and cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    try:
                        value = parse_json(line)
                    except ValueError:
                        value = None
                    if isinstance(value, dict):
                        yield value
                    else:
                        _log.warning("%s: line %d is damaged and was skipped", self.path, number)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror or error}") from error

    def append(self, value: Mapping[str, Any]) -> None:
        """Append one object; it is in the file when this returns.

        Raises:
            StorageError: the disk is full or the file cannot be written; the file is unchanged.
            ValueError: the object has a number that JSON does not support, such as NaN.
        """
        line = json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._remove_torn_line()
            with self.path.open("ab") as file:
                file.write(line)
        except OSError as error:
            with suppress(OSError):  # the next append tries again
                self._remove_torn_line()
            raise StorageError(
                f"cannot write {self.path}: {error.strerror or error}; free some space or make the "
                "file writable"
            ) from error

    def _remove_torn_line(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end == 0:
                return
            file.seek(end - 1)
            if file.read(1) == b"\n":
                return
            file.seek(0)
            data = file.read()
            whole = data.rfind(b"\n") + 1
            with suppress(OSError):  # saved for inspection only; nothing depends on it
                self.path.with_suffix(".torn").write_bytes(data[whole:])
            file.truncate(whole)
