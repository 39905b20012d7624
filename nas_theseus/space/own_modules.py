"""Import the modules of a space from its sources alone, apart from those of every other space.

The space file becomes a package of a name made from its sources, and its modules the modules of
that package. So two spaces can each have their own ``blocks.py`` in one process, and the classes in
them can be pickled by name. Their import statements are redirected through ``__import__``, which
Python looks up in the builtins of the module that runs the statement, also in functions that run
later.
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

_PREFIX = "theseus_space_"
_packages: dict[str, OwnPackage] = {}  # those that the finder knows, by name


class OwnPackage:
    """The modules of one space under one name.

    Attributes:
        name: of the package, made from its texts and from where they lie.
        met: modules from elsewhere that import statements have asked for so far, by name, with
            the file that asked first.
    """

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.name = _PREFIX + short_hash([sources.path, sources.hash])
        self.met: dict[str, str] = {}
        self._texts = {_dotted(path): (path, text) for path, text in sources.modules}
        self._tops = {name.partition(".")[0] for name in self._texts}

    def spec(self, name: str) -> ModuleSpec | None:
        """How to import one module of the package; None where it has no such module.

        Args:
            name: dotted, from the package on; "" for the space file itself.
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
        """Run the space file anew; modules that it imports run once in a process, as always."""
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
        """``__import__`` of the space's own code."""
        top = name.partition(".")[0]
        if level or top not in self._tops:
            if not level:
                file = str((globals or {}).get("__file__") or self.sources.path)
                self.met.setdefault(name, file)
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        found = builtins.__import__(f"{self.name}.{name}", globals, locals, fromlist or (), 0)
        # Without a list of names `import a.b` binds a, here a module of the package.
        return found if fromlist else sys.modules[f"{self.name}.{top}"]


class _Loader(importlib.abc.InspectLoader):
    """Runs one text as a module."""

    def __init__(self, package: OwnPackage, path: str | None, text: str, is_package: bool) -> None:
        self._package, self._path, self._text = package, path, text
        self._is_package = is_package

    def is_package(self, fullname: str) -> bool:
        return self._is_package

    def get_source(self, fullname: str) -> str:
        return self._text

    def exec_module(self, module: ModuleType) -> None:
        own: dict[str, Any] = {**vars(builtins), "__import__": self._package.import_}
        # What runs; the file itself may be changed, or be on another machine, when it is asked for.
        module.__dict__.update(__builtins__=own, __source__=self._text)
        path = self._path or f"<{module.__name__}>"
        # Without a time of change the text stands for the file, also where there is none.
        lines = self._text.splitlines(keepends=True)
        linecache.cache[path] = (len(self._text), None, lines, path)
        exec(compile(self._text, path, "exec"), module.__dict__)  # the user's code, run knowingly


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of the packages of spaces."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return _packages[package].spec(name) if package in _packages else None


_finder = _Finder()


def own_package(sources: Sources) -> OwnPackage:
    """The package of these sources; the same one for the same texts from the same place."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    made = OwnPackage(sources)
    return _packages.setdefault(made.name, made)


def _dotted(path: str) -> str:
    """Dotted name of a module's path: ``package/__init__.py`` is ``package``."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
