"""The sources of a space: its file and the modules that it imports from its own folder.

A search keeps them, workers and found networks are given them, and a space is loaded from nothing
else. So a network that loads here loads on every machine that has the same packages installed.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nas_theseus.errors import SpaceError, StorageError
from nas_theseus.space.own_folder import read_folder
from nas_theseus.storage.json_files import MALFORMED, read_json
from nas_theseus.storage.json_files import text as text_of
from nas_theseus.storage.whole_files import write_bytes, write_json
from nas_theseus.values.ids import short_hash

SPACE_FILE, MANIFEST_FILE, MODULES_FOLDER = "space.py", "sources.json", "sources"

_MODULE_PATH = re.compile(r"(\w+/)*\w+\.py")
_DIFFERENCE_LINES = 40


@dataclass(frozen=True)
class Sources:
    """A space file and the modules that it imports from its own folder; plain values.

    Attributes:
        path: where the space file lay when it was read. It need not exist on this machine: it is
            the ``__file__`` that the code sees, so that data beside it are found where they are.
        text: of the space file.
        modules: path from the folder on (``package/module.py``) and text of each module, sorted.
    """

    path: str
    text: str
    modules: tuple[tuple[str, str], ...] = ()

    @property
    def folder(self) -> Path:
        """The folder of the space file, and of the modules beside it."""
        return Path(self.path).parent

    @cached_property
    def hash(self) -> str:
        """Hash of all texts, wherever they lie: what a person consents to run."""
        return short_hash([self.text, self.modules], 64)


def gather(space_file: str | Path) -> Sources:
    """Read a space file and every module that it imports from its folder, directly or not.

    Imports are read from the texts, so those in functions that run later are found as well. Other
    files, such as data, are no sources.

    Args:
        space_file: the file. Of a copy in a search's or network's folder, the sources saved there.

    Raises:
        SpaceError: a file cannot be read, or an import cannot be saved with a found network:
            compiled code in the folder, or a module that is neither in the folder nor installed.
        StorageError: the sources saved beside a copy are damaged.
    """
    path = Path(space_file)
    if path.name == SPACE_FILE and (path.parent / MANIFEST_FILE).is_file():
        return read_sources(path.parent)
    found = read_folder(path)
    if found.mistakes:
        raise SpaceError(str(path), found.mistakes)
    return Sources(str(path.resolve()), found.text, found.modules)


def write_sources(folder: Path, sources: Sources) -> None:
    """Save sources in a folder: ``space.py``, ``sources.json`` and the modules in ``sources/``.

    Modules that earlier sources left there are removed; no other file is touched.

    Raises:
        StorageError: the folder cannot be written.
    """
    names = [name for name, _ in sources.modules]
    for name in set(_saved_modules(folder)) - set(names):
        (folder / MODULES_FOLDER / name).unlink(missing_ok=True)
    for name, text in sources.modules:
        write_bytes(folder / MODULES_FOLDER / name, text.encode())
    write_bytes(folder / SPACE_FILE, sources.text.encode())
    hashes = {name: _hash(text) for name, text in [(SPACE_FILE, sources.text), *sources.modules]}
    listed = {"path": sources.path, "modules": names, "sha256": hashes}
    write_json(folder / MANIFEST_FILE, listed)


def read_sources(folder: Path) -> Sources:
    """Read saved sources; runs none of them.

    A folder that an older version wrote has no ``sources.json``: modules that lie beside its
    ``space.py`` are taken, as a person may have put them there.

    Raises:
        StorageError: a file is missing or damaged.
        SpaceError: without ``sources.json``, as `read_folder`.
    """
    if not (folder / MANIFEST_FILE).is_file():
        found = read_folder(folder / SPACE_FILE)
        return Sources(str((folder / SPACE_FILE).resolve()), found.text, found.modules)
    names = _saved_modules(folder)
    try:
        listed = read_json(folder / MANIFEST_FILE)
        path, hashes = text_of(listed["path"]), dict(listed.get("sha256", {}))
    except (OSError, *MALFORMED) as error:
        raise _unreadable(folder / MANIFEST_FILE, error) from error
    text = _read_text(folder / SPACE_FILE, hashes.get(SPACE_FILE))
    modules = [
        (name, _read_text(folder / MODULES_FOLDER / name, hashes.get(name))) for name in names
    ]
    return Sources(path, text, tuple(sorted(modules)))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read_text(path: Path, digest: str | None) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        if digest not in (None, _hash(text)):
            raise ValueError(
                "its SHA-256 is not the one in sources.json (after a change on purpose, delete "
                "'sha256' there)"
            )
        return text
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> StorageError:
    return StorageError(
        f"{path} is damaged: {error}; restore it from a backup, or copy the whole folder again, "
        f"{MODULES_FOLDER}/ included"
    )


def source_files(folder: Path) -> tuple[str, ...]:
    """Names of the files that `write_sources` wrote into a folder, from the folder on.

    Raises:
        StorageError: ``sources.json`` is damaged.
    """
    modules = [f"{MODULES_FOLDER}/{name}" for name in _saved_modules(folder)]
    return (SPACE_FILE, MANIFEST_FILE, *modules)


def _saved_modules(folder: Path) -> list[str]:
    """Paths of the modules that ``sources.json`` lists; none leads out of the folder."""
    manifest = folder / MANIFEST_FILE
    try:
        names = read_json(manifest)["modules"]
        if all(_MODULE_PATH.fullmatch(name) for name in names):
            return list(names)
        error: Exception = ValueError("it lists what can be no module")
    except FileNotFoundError:
        return []
    except (OSError, *MALFORMED) as caught:
        error = caught
    raise _unreadable(manifest, error) from error


def difference(kept: Sources, given: Sources) -> str | None:
    """What differs between the saved sources and those given now, as a unified diff.

    Returns:
        The names of the files that differ, then the first lines of the diff; None where all texts
        are the same. Where the files lie does not matter.
    """
    space_file = Path(given.path).name
    before: dict[str, str | None] = dict(kept.modules)
    after: dict[str, str | None] = dict(given.modules)
    texts: dict[str, tuple[str | None, str | None]] = {space_file: (kept.text, given.text)}
    texts |= {name: (before.get(name), after.get(name)) for name in sorted({*before, *after})}
    changed = {name: pair for name, pair in texts.items() if pair[0] != pair[1]}
    if not changed:
        return None
    lines = [
        line
        for name, (old, new) in changed.items()
        for line in difflib.unified_diff(
            (old or "").splitlines(),
            (new or "").splitlines(),
            f"saved {name}",
            f"given {name}",
            lineterm="",
            n=1,
        )
    ]
    return "\n".join([", ".join(changed), *lines[:_DIFFERENCE_LINES]])
