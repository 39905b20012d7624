"""Why the storage of a study cannot be used, each cause with its own remedy."""

from __future__ import annotations

import errno
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import optuna

from nas_theseus.errors import ServiceError
from nas_theseus.storage.redaction import scrub, without_credentials

_CONTINUE = "; then the same command continues from here"


@dataclass(frozen=True)
class Cause:
    """One way in which a storage fails.

    Attributes:
        signs: patterns in the messages of database drivers and of the operating system, in lower
            case.
        remedy: what to do, as a sentence without its full stop.
    """

    signs: tuple[str, ...]
    remedy: str


# The first match is used.
CAUSES = (
    Cause(
        ("no longer compatible with the table schema",),
        f"Its tables are of another version of Optuna than {optuna.__version__}: make a copy of "
        "the database, then run `optuna storage upgrade --storage URL`, or give the study its own "
        "database (--study)",
    ),
    Cause(
        ("database is locked", "database table is locked", "lock wait timeout", "lock timeout"),
        "Another process has locked this database: wait until that process ends, or end it"
        f"{_CONTINUE}. If several processes must write at once, use PostgreSQL (--study)",
    ),
    Cause(
        ("password authentication failed", "no password supplied", "access denied for user"),
        "The database refuses this user or password: correct them in the address (--study)"
        f"{_CONTINUE}",
    ),
    Cause(
        ("could not parse sqlalchemy url", r"can't load plugin: sqlalchemy\.dialects"),
        "This is not the address of a database: write sqlite:///FILE or "
        "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE (--study)",
    ),
    Cause(
        ("failed to import db access module", "no module named"),
        "The Python package for this kind of database is not installed: install it, for "
        "PostgreSQL with `pip install nas-theseus[sql]` and an address that begins with "
        f"postgresql+psycopg://{_CONTINUE}",
    ),
    Cause(
        ("disk is full", "no space left", "disk quota exceeded", "file too large"),
        f"Its disk or quota is full: free some space{_CONTINUE}",
    ),
    Cause(
        ("disk i/o error",),
        "Its file cannot be written or read: check whether the disk is full, a limit on file size "
        f"is reached (`ulimit -f`), or the disk is failing{_CONTINUE}",
    ),
    Cause(
        ("file is not a database", "database disk image is malformed"),
        "The file is damaged, or is not an SQLite database: restore it from a backup, or give the "
        "study another file (--study)",
    ),
    Cause(
        ("unable to open database file",),
        "Its folder does not exist or is not writable: create the folder, give yourself write "
        f"permission, or correct the path (--study){_CONTINUE}",
    ),
    Cause(
        ("readonly database", "permission denied", "read-only file system"),
        f"It is not writable: give yourself write permission{_CONTINUE}",
    ),
    Cause(
        (r'(database|role) "[^"]*" does not exist', "unknown database"),
        "The server has no such database or user: create it there, or correct the address "
        f"(--study){_CONTINUE}",
    ),
    Cause(
        (
            "connection refused",
            "failed to resolve host",
            "could not translate host name",
            "timeout expired",
            "no route to host",
            "network is unreachable",
            "can't connect",
            "server closed the connection",
            "connection reset",
            "is starting up",
            "is shutting down",
            "terminating connection",
        ),
        "The database does not answer: check that it runs and that host and port are correct "
        f"(--study){_CONTINUE}",
    ),
)
_OTHER = Cause((), f"Check that the storage exists and is writable (--study){_CONTINUE}")
_SHARED = Cause(
    (),
    "MLflow or another tool uses this database, and stores the version of its tables where Optuna "
    "does: give the study its own database (--study)",
)
# Optuna reports any failed commit as invalid data, with the real error as its cause.
_WRAPPERS = (optuna.exceptions.StorageInternalError, ImportError)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def cause_of(error: BaseException) -> Cause:
    """The cause of an error of a database driver or of the operating system."""
    said = str(error).partition("[SQL:")[0].lower()
    # Optuna's message has its own version in place of the other tool's.
    if f"(set up by optuna {optuna.__version__})" in said and "try updating optuna" in said:
        return _SHARED
    if isinstance(error, OSError) and error.errno in _FULL:
        said = "disk is full"
    return next((one for one in CAUSES if any(re.search(sign, said) for sign in one.signs)), _OTHER)


def unusable(storage: Path | str, error: BaseException) -> ServiceError:
    """The error that tells a user why a storage cannot be used, and what to do.

    It is not chained to its cause, which may contain the password of the address.

    Args:
        storage: the journal's path, or the database's address.
        error: what Optuna, the database driver or the operating system raised.
    """
    address = str(storage)
    if isinstance(error, _WRAPPERS):
        error = error.__cause__ or error
    reason = scrub(f"{type(error).__name__}: {error}".splitlines()[0].rstrip("."), address)
    return ServiceError(
        f"Optuna's storage {without_credentials(address)} cannot be used: {reason}. "
        f"{cause_of(error).remedy}."
    )


def damaged(journal: Path, line: int, why: str) -> ServiceError:
    """The error that tells a user which line of a study's journal is damaged, and what to do.

    Args:
        journal: the file.
        line: the damaged line's number, from 1.
        why: what is wrong with it.
    """
    path = shlex.quote(str(journal))
    if line > 1:
        kept = f"keep the {line - 1} lines before it: "
        command = f"cp {path} {path}.damaged && head -n {line - 1} {path}.damaged > {path}"
    else:
        kept = "move it away, so that a new one is started: "
        command = f"mv {path} {path}.damaged"
    return ServiceError(
        f"the study's journal {journal} is damaged in line {line}: {why}. Restore the file from a "
        f"backup, or {kept}{command}. Saved results are kept and are not computed again"
        f"{_CONTINUE}."
    )
