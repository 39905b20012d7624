"""The folder of records that MLflow has not received yet: small numbered files, oldest first."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nas_theseus.errors import ServiceError, StorageError
from nas_theseus.services.mlflow.search_runs import RecordError
from nas_theseus.storage.checked_json import read_checked, with_checksum
from nas_theseus.storage.whole_files import write_bytes

LOCK_TIMEOUT_S = 5.0


class Outbox:
    """Records of one search as files ``NUMBER-KIND.json``.

    A record that MLflow refuses is moved to the folder ``refused``, with the reason beside it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._refused = folder / "refused"
        self._last = 0

    @property
    def refused(self) -> int:
        """Number of records that were set aside because MLflow refuses them."""
        return len(list(self._refused.glob("*.json")))

    def lock(self) -> FileLock:
        """Make the folder and lock it for this process.

        Raises:
            ServiceError: another process has locked it.
            StorageError: the folder cannot be written.
        """
        lock = FileLock(self.folder / ".lock", timeout=LOCK_TIMEOUT_S, thread_local=False)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise ServiceError(
                f"the outbox {self.folder} is being delivered by another process; wait until it "
                "ends, or end it, then start again."
            ) from None
        except OSError as error:
            raise StorageError(f"cannot use the outbox {self.folder}: {error}") from error
        return lock

    def records(self) -> list[Path]:
        """The records on disk, oldest first; new ones are numbered after them."""
        found = sorted(self.folder.glob("[0-9]*.json"))
        names = [*found, *self._refused.glob("[0-9]*.json")]
        self._last = max([self._last, *(int(path.name.split("-")[0]) for path in names)])
        return found

    def put(self, kind: str, **content: object) -> Path:
        """Write one record, stamped with the time.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        record = {"kind": kind, "time_ms": time.time_ns() // 1_000_000, **content}
        path = self.folder / f"{self._last + 1:012d}-{kind}.json"
        try:
            write_bytes(path, json.dumps(with_checksum(record)).encode())
        except OSError as error:
            raise StorageError(
                f"cannot keep a tracking record in {self.folder}: {error}. Free some space or make "
                "the folder writable, then go on with the search."
            ) from error
        self._last += 1
        return path

    def load(self, path: Path) -> dict[str, Any]:
        """The content of a record.

        Raises:
            RecordError: the file is damaged.
            OSError: it cannot be read.
        """
        try:
            return read_checked(path)
        except ValueError as error:
            raise RecordError(f"the record is damaged: {error}") from error

    def set_aside(self, path: Path, reason: str) -> Path:
        """Move a record to those that MLflow refuses; returns its new path.

        Raises:
            OSError: the disk is full or the folder cannot be written.
        """
        refused = self._refused / path.name
        write_bytes(refused.with_suffix(".reason.txt"), reason.encode())
        os.replace(path, refused)
        return refused
