"""Import the modules of a space from its sources only, separately for each space.

The space file becomes a package whose name is derived from its sources, and its modules become
modules of that package. So two spaces can each have their own ``blocks.py`` in one process, and
their classes can be pickled by name. Import statements are redirected through ``__import__``, which
Python looks up in the builtins of the module that runs the statement, including statements in
functions that run later.
"""

from __future__ import annotations

import builtins
import importlib.abc
import importlib.util
import linecache
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from nas_theseus.space.sources import Sources
from nas_theseus.values.ids import short_hash
from nas_theseus.values.registers import SPACE_PREFIX

_packages: dict[str, OwnPackage] = {}  # packages known to the finder, by name


class OwnPackage:
    """The modules of one space as a package.

    Attributes:
        name: name of the package, derived from its sources and their location.
        met: names of modules from elsewhere that were imported so far, each with the file that
            imported it first.
    """

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.name = SPACE_PREFIX + short_hash([sources.path, sources.hash])
        self.met: dict[str, str] = {}
        self._texts = {_dotted(path): (path, text) for path, text in sources.modules}
        self._tops = {name.partition(".")[0] for name in self._texts}

    def spec(self, name: str) -> ModuleSpec | None:
        """The import spec of one module of the package; None if there is no such module.

        Args:
            name: dotted name within the package; "" for the space file itself.
        """
        full = f"{self.name}.{name}" if name else self.name
        if not name:
            return self._spec(full, self.sources.path, self.sources.text, is_package=True)
        if name in self._texts:
            path, text = self._texts[name]
            place = str(self.sources.folder / path)
            return self._spec(full, place, text, is_package=path.endswith("/__init__.py"))
        if any(other.startswith(f"{name}.") for other in self._texts):
            return self._spec(full, None, "", is_package=True)  # a folder without __init__.py
        return None

    def _spec(self, full: str, path: str | None, text: str, *, is_package: bool) -> ModuleSpec:
        loader = _Loader(self, path, text, is_package)
        spec = ModuleSpec(full, loader, origin=path, is_package=is_package)
        spec.has_location = path is not None
        return spec

    def run_space_file(self) -> ModuleType:
        """Run the space file again; modules that it imports run once per process, as usual."""
        spec = self.spec("")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.name] = module
        spec.loader.exec_module(module)
        return module

    def import_(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """``__import__`` for the space's own code."""
        top = name.partition(".")[0]
        if level or top not in self._tops:
            if not level:
                file = str((globals or {}).get("__file__") or self.sources.path)
                self.met.setdefault(name, file)
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        found = builtins.__import__(f"{self.name}.{name}", globals, locals, fromlist or (), 0)
        # Without `fromlist`, `import a.b` binds a, here a module of the package.
        return found if fromlist else sys.modules[f"{self.name}.{top}"]


class _Loader(importlib.abc.InspectLoader):
    """Runs one source text as a module."""

    def __init__(self, package: OwnPackage, path: str | None, text: str, is_package: bool) -> None:
        self._package, self._path, self._text = package, path, text
        self._is_package = is_package

    def is_package(self, fullname: str) -> bool:
        return self._is_package

    def get_source(self, fullname: str) -> str:
        return self._text

    def exec_module(self, module: ModuleType) -> None:
        own: dict[str, Any] = {**vars(builtins), "__import__": self._package.import_}
        # The source that runs; the file may have changed, or be on another machine.
        module.__dict__.update(__builtins__=own, __source__=self._text)
        path = self._path or f"<{module.__name__}>"
        # Without a modification time, linecache uses this text even if there is no file.
        lines = self._text.splitlines(keepends=True)
        linecache.cache[path] = (len(self._text), None, lines, path)
        exec(compile(self._text, path, "exec"), module.__dict__)  # the user consented to run this


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of spaces' packages."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return _packages[package].spec(name) if package in _packages else None


_finder = _Finder()


def own_package(sources: Sources) -> OwnPackage:
    """The package of these sources; equal sources from the same place share one."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    made = OwnPackage(sources)
    return _packages.setdefault(made.name, made)


def _dotted(path: str) -> str:
    """Dotted name of a module's path: ``package/__init__.py`` is ``package``."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
