"""Which spaces this user has run by name: the copy that a search saved may be run again unasked.

A storage folder may come from others, so what it says of itself is no consent. The notes are the
user's own, in ``$XDG_STATE_HOME`` (``~/.local/state``): one for each set of sources, named by the
hash of all their texts.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from nas_theseus.errors import SpaceError, StorageError
from nas_theseus.space.sources import MODULES_FOLDER, SPACE_FILE, Sources, gather
from nas_theseus.storage.whole_files import DAY_S, remove_leftovers, write_bytes


def remember(sources: Sources) -> None:
    """Note that the user named a space file to run; nothing where no note can be written."""
    with suppress(OSError, StorageError):
        note = _note(sources)
        write_bytes(note, os.fsencode(sources.path))
        remove_leftovers(note.parent, DAY_S)


def runnable(kept: Sources, folder: Path, *, trust_code: bool) -> Sources:
    """The sources to run for the space that a search saved.

    Those of the file that the user ran, as long as its text and those of its modules are as they
    were. Otherwise the search's copy, on consent.

    Args:
        kept: the search's copy.
        folder: where it is saved.
        trust_code: consent to run it.

    Raises:
        StorageError: no consent.
    """
    with suppress(OSError, SpaceError):
        own = gather(os.fsdecode(_note(kept).read_bytes()))
        if own.hash == kept.hash:
            return own
    if not trust_code:
        modules = f" and in {folder / MODULES_FOLDER}" if kept.modules else ""
        raise StorageError(
            f"this runs the Python code in {folder / SPACE_FILE}{modules}, and the file that it "
            "was copied from is not here as it was; read the code, then add --trust-code"
        )
    return kept


def _note(sources: Sources) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "nas-theseus" / "spaces" / sources.hash
