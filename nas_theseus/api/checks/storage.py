"""The storage folder: whether it can be written and locked, and how much space is left."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from nas_theseus.api.doctor import Asked, Finding

# Guides, blocks and found networks of a small search take some hundred MB.
LEAST_FREE_BYTES = 2**30


def check(asked: Asked) -> Iterator[Finding]:
    """Write a file, lock it and remove it, in the folder or where it would be made."""
    folder = asked.storage.expanduser().absolute()
    # Path.exists raises where a folder on the way cannot be entered.
    place = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    subject, elsewhere = f"storage {asked.storage}", "choose another folder with --storage"
    if not place.is_dir():
        yield Finding(subject, "broken", f"{place} is a file", elsewhere)
        return
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".probe-") as probe:
            (Path(probe) / "file").write_bytes(b"\0" * 4096)
            with FileLock(Path(probe) / "lock", timeout=5):
                pass
    except (OSError, NotImplementedError) as error:
        said = f"{place} cannot be written or locked: {getattr(error, 'strerror', '') or error}"
        yield Finding(subject, "broken", said, f"make it writable, or {elsewhere}")
        return
    free = shutil.disk_usage(place).free
    said = f"{place} can be written, {free / 2**30:.1f} GiB free"
    if free < LEAST_FREE_BYTES:
        yield Finding(subject, "broken", said, f"free at least 1 GiB, or {elsewhere}")
    else:
        yield Finding(subject, "ok", said)


MEMBER = check
