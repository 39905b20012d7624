"""Files damaged between two runs of a search, and the remedies that its messages name."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from random import Random

# Groups of files, so that the many of one kind do not hide the others.
_KINDS = ("evaluations", "weights", "blocks", "front", "outbox", "library", "guides", "guide_work")
_LEAVE = (".lock", ".aside", ".damaged", ".torn", ".txt", ".png", ".html")


@dataclass
class Damage:
    """One damaged file.

    Attributes:
        whole: what it held before: the user's backup.
        way: how it was damaged.
    """

    path: Path
    whole: bytes
    way: str

    @property
    def names(self) -> tuple[str, ...]:
        """What a message can call it by; its folder, for files of an architecture or block."""
        return (self.path.name, self.path.stem.partition(".")[0].partition("-")[0])


def kind_of(storage: Path, path: Path) -> str:
    """The group of a file under the storage."""
    parts = path.relative_to(storage).parts
    return next((part for part in parts if part in _KINDS), path.name)


def damage(storage: Path, choice: float) -> Damage | None:
    """Truncate a random file, or flip one of its bits; None if there are no files.

    Args:
        choice: in [0, 1): which file, and what happens to it.
    """
    rng = Random(choice)
    groups: dict[str, list[Path]] = {}
    for path in sorted(storage.rglob("*")):
        if path.is_file() and path.suffix not in _LEAVE and path.stat().st_size:
            groups.setdefault(kind_of(storage, path), []).append(path)
    if not groups:
        return None
    path = rng.choice(groups[rng.choice(sorted(groups))])
    whole = path.read_bytes()
    if rng.random() < 0.5:
        size = rng.randrange(len(whole))
        path.write_bytes(whole[:size])
        return Damage(path, whole, f"cut to {size} of {len(whole)} bytes")
    changed = bytearray(whole)
    place, bit = rng.randrange(len(whole)), rng.randrange(8)
    changed[place] ^= 1 << bit
    path.write_bytes(bytes(changed))
    return Damage(path, whole, f"bit {bit} of byte {place} of {len(whole)} flipped")


def remedy(said: str, done: Damage) -> str | None:
    """Do what a message says about a damaged file; returns what that was, None if nothing helps.

    Args:
        said: the message of a driver that ended, in one line.
    """
    if not any(name in said for name in done.names):
        return None
    if named := re.search(r"delete evaluations/(\S+\.json)", said):
        for folder in done.path.parents:
            if (folder / "evaluations" / named[1]).is_file():
                (folder / "evaluations" / named[1]).unlink()
                return "deleted its result"
        return None
    if "Delete this file" in said or "delete this file" in said or "delete it" in said:
        done.path.unlink()
        return "deleted"
    if command := re.search(r"before it: (cp .*?)\. Saved results", said):
        subprocess.run(command[1], shell=True, check=True)
        return "kept the lines before"
    if command := re.search(r"new one is started: (mv .*?)\. Saved results", said):
        subprocess.run(command[1], shell=True, check=True)
        return "moved away"
    if re.search("backup|restore|copy (it|the whole folder) again", said, re.IGNORECASE):
        done.path.write_bytes(done.whole)
        return "restored from a backup"
    return None
