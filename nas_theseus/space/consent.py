"""Which space files this user has run by name: a search's copy of one may be run again unasked.

A storage folder may come from others, so what it says of itself is no consent. The notes are the
user's own, in ``$XDG_STATE_HOME`` (``~/.local/state``).
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from nas_theseus.errors import StorageError
from nas_theseus.storage.whole_files import write_bytes


def remember(space_file: Path) -> None:
    """Note that the user named a space file to run; nothing where no note can be written."""
    with suppress(OSError, StorageError):
        write_bytes(_note(space_file.read_bytes()), os.fsencode(space_file.resolve()))


def runnable(kept: Path, *, trust_code: bool) -> Path:
    """The file to run for the space that a search kept.

    That is the file that the user ran, as long as it is as it was: what it imports from beside it
    is then the user's own as well. Otherwise it is the kept copy, on consent.

    Args:
        kept: the search's copy.
        trust_code: consent to run it.

    Raises:
        StorageError: no consent.
    """
    text = kept.read_bytes()
    with suppress(OSError):
        own = Path(os.fsdecode(_note(text).read_bytes()))
        if own.read_bytes() == text:
            return own
    if not trust_code:
        raise StorageError(
            f"this runs the Python code in {kept}, and the file that it was copied from is not "
            "here as it was; read the code, then add --trust-code"
        )
    return kept


def _note(text: bytes) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "nas-theseus" / "spaces" / hashlib.sha256(text).hexdigest()
