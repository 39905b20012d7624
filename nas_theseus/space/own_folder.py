"""Find the modules that a space file imports from its own folder, without running them."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nas_theseus.errors import SpaceError
from nas_theseus.space.imports import Import, imports_of, is_installed, private_origin

_COMPILED = (*importlib.machinery.EXTENSION_SUFFIXES, ".pyc")


@dataclass(frozen=True)
class Found:
    """A space file and its modules, read from a folder.

    Attributes:
        text: source of the space file.
        modules: path relative to the folder and source of each module, sorted.
        mistakes: one sentence for each import that cannot be saved with a found network.
    """

    text: str
    modules: tuple[tuple[str, str], ...]
    mistakes: tuple[str, ...]


def read_folder(space_file: Path) -> Found:
    """Read a space file, the modules that it imports from its folder, and those that they import.

    A module next to the space file takes precedence over an installed one of the same name, as for
    any script. Python's built-in modules and nas_theseus are never searched in the folder.

    Raises:
        SpaceError: a file cannot be read or is not valid Python.
    """
    reader = _Reader(space_file)
    text = reader.read(space_file.resolve())
    modules: dict[str, str] = {}
    waiting = reader.imports(text, space_file.name, "")
    while waiting:
        for module in reader.modules(waiting.pop(0)):
            if module not in modules:
                modules[module] = reader.read(reader.folder / module)
                package = ".".join(PurePosixPath(module).parts[:-1])
                waiting += reader.imports(modules[module], module, package)
    own = {path: text for path, text in modules.items() if _top(path) not in reader.installed}
    return Found(text, tuple(sorted(own.items())), tuple(reader.mistakes()))


def private_import(name: str, importer: str, folder: Path) -> str | None:
    """Why a module that a space imports from outside its folder cannot be saved, and the remedy.

    Args:
        name: dotted name of the module.
        importer: where it is imported, such as "line 3 of mine.py".
        folder: folder of the space file.

    Returns:
        One sentence; None if the module is installed or not found at all.
    """
    origin = private_origin(name)
    if origin is None:
        return None
    return (
        f"{importer} imports {name.partition('.')[0]!r} from {origin}, which is neither in "
        f"{folder} nor installed, so that a found network could not be loaded on another machine. "
        "Move the module into that folder, or install it as a package ('pip install -e' is enough)"
    )


@dataclass(frozen=True)
class _Met:
    """An import and the file that has it, as named in messages."""

    file: str
    one: Import

    def __str__(self) -> str:
        return f"line {self.one.line} of {self.file}"


class _Reader:
    """Reads source files of one folder and collects the imports that cannot be saved.

    Attributes:
        folder: folder of the space file.
        installed: top-level modules in the folder that belong to an installed distribution and are
            partly compiled; they count as installed.
    """

    def __init__(self, space_file: Path) -> None:
        self._shown, self._name = str(space_file), space_file.name
        self.folder = space_file.resolve().parent
        self.installed: set[str] = set()
        self._outside: dict[str, _Met] = {}
        self._called: dict[str, _Met] = {}
        self._compiled: dict[Path, _Met] = {}

    def read(self, path: Path) -> str:
        """A file's text, decoded as Python does: byte-order mark and coding line included."""
        try:
            return importlib.util.decode_source(path.read_bytes())
        except (OSError, UnicodeDecodeError, SyntaxError) as error:  # the last: wrong coding line
            reason = getattr(error, "strerror", None) or str(error)
            if path.name == self._name:
                mistake = f"{reason}; give a Python file with a function space()"
            else:
                mistake = f"its module {path.relative_to(self.folder)} cannot be read: {reason}"
            raise SpaceError(self._shown, [mistake]) from error

    def imports(self, text: str, file: str, package: str) -> list[_Met]:
        """All imports in a source file, whose name is left out of messages on the space file."""
        try:
            return [_Met(file, one) for one in imports_of(ast.parse(text), package)]
        except (SyntaxError, ValueError) as error:  # ValueError: a NUL in the text
            where = "" if file == self._name else f"{file}, "
            if (line := getattr(error, "lineno", None)) is not None:
                where += f"line {line}: "
            said = f"{where}{type(error).__name__}: {error}"
            raise SpaceError(self._shown, [said]) from error

    def modules(self, met: _Met) -> Iterator[str]:
        """Paths of the folder's modules that an import runs, packages first."""
        one, top = met.one, met.one.name.partition(".")[0]
        if top in ("nas_theseus", *sys.builtin_module_names):
            return
        parts = one.name.split(".")
        paths = [PurePosixPath(*parts[: end + 1]) for end in range(len(parts))]
        compiled = self._compiled_file(paths)
        if compiled is not None and is_installed(top, compiled):
            self.installed.add(top)
            return
        if compiled is not None:
            self._compiled.setdefault(compiled, met)
            return
        found = [file for path in paths if (file := self._file(path)) is not None]
        if found and not one.relative and self._file(paths[0]) is None and _is_elsewhere(top):
            found = []  # a data folder with the name of an imported package
        if not found:
            if not one.relative:
                self._outside.setdefault(top, met)
        elif one.call:
            self._called.setdefault(top, met)
        else:
            yield from found

    def mistakes(self) -> Iterator[str]:
        """One sentence for each import so far that cannot be saved."""
        for path, met in self._compiled.items():
            if _top(met.one.name) not in self.installed:
                yield (
                    f"{met} imports {met.one.name!r}, which is compiled ({path.name}) and cannot "
                    "be saved with a found network. Install it as a package, or write it in Python"
                )
        for met in self._called.values():
            yield (
                f"{met} imports {met.one.name!r} by a call, which fails when a found network is "
                f"loaded. Write 'import {met.one.name}' instead"
            )
        for met in self._outside.values():
            mistake = private_import(met.one.name, str(met), self.folder)
            if mistake is not None:
                yield mistake

    def _file(self, path: PurePosixPath) -> str | None:
        for name in (f"{path}/__init__.py", f"{path}.py"):
            if (self.folder / name).is_file():
                return name
        return None

    def _compiled_file(self, paths: list[PurePosixPath]) -> Path | None:
        """The compiled file of one of these modules that has no Python source."""
        candidates = (
            self.folder / f"{path}{middle}{suffix}"
            for path in paths
            if self._file(path) is None
            for middle in ("", "/__init__")
            for suffix in _COMPILED
        )
        return next((path for path in candidates if path.is_file()), None)


def _top(path: str) -> str:
    """The top-level module of a module's path or dotted name."""
    return path.removesuffix(".py").replace("/", ".").partition(".")[0]


def _is_elsewhere(top: str) -> bool:
    """Whether a module with this name can be imported from another place."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None
