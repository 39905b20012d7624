"""A library's tables in a new SQLite file: there whole or not at all."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock
from sqlalchemy import event
from sqlalchemy.engine import Engine, make_url

from nas_theseus.errors import StorageError
from nas_theseus.storage.whole_files import replacing

TIMEOUT_S = 120.0


def make_tables(url: str, make: Callable[[str], object]) -> None:
    """Make a library's tables, if a SQLite file is new, before the library uses it.

    Optuna and MLflow make them at first use, in dozens of steps, and cannot go on with a file that
    a killed process left half made. So they are made beside the file, which then gets its name. Of
    processes that begin at once the first does it; the others wait behind a lock.

    Args:
        url: of any database; nothing is done for those that are no SQLite file, whose file is
            there, or whose folder is missing.
        make: makes the tables in the database at a URL.

    Raises:
        TimeoutError: another process takes longer than two minutes.
        OSError, StorageError: the file cannot be written.
        Exception: what `make` raises.
    """
    file = sqlite_file(url)
    if file is None or not file.parent.is_dir() or file.exists():
        return
    with FileLock(f"{file}.lock", timeout=TIMEOUT_S):
        if not file.exists():
            _make(file, make)


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite database; None for other databases and those in memory."""
    name = make_url(url).database if url.startswith("sqlite") else None
    special = not name or name == ":memory:" or name.startswith("file:")
    return None if name is None or special else Path(name).resolve()


def _make(file: Path, make: Callable[[str], object]) -> None:
    folder = file.with_name(f".{file.name}.tables")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir()
    try:
        begun = folder / "begun.db"
        with _unflushed(begun):
            make(f"sqlite:///{begun}")
        with replacing(file) as whole, closing(sqlite3.connect(begun)) as tables:
            try:
                tables.execute("VACUUM INTO ?", (str(whole),))
            except sqlite3.OperationalError as error:
                raise StorageError(f"cannot write {file}: {error}; free some space") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _unflushed(file: Path) -> Iterator[None]:
    """Let SQLite not wait for the disk where it writes this file: it is begun again after a crash.

    MLflow's tables take so many flushes that they are minutes on a slow disk.
    """

    def on_connect(connection: object, record: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            opened = {path for _, _, path in connection.execute("PRAGMA database_list")}
            if str(file.resolve()) in opened:
                connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", on_connect)
    try:
        yield
    finally:
        event.remove(Engine, "connect", on_connect)
