"""Find the modules that Python source imports, and those that another machine cannot install."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlparse


@dataclass(frozen=True)
class Import:
    """One module that Python source imports.

    Attributes:
        name: dotted name relative to the space file's folder: ``my_blocks``, ``package.module``.
        line: line number in the source.
        relative: whether it is written with leading dots, so that it can only be in the folder.
        call: whether it is imported by ``importlib.import_module("…")``, not by a statement.
    """

    name: str
    line: int
    relative: bool = False
    call: bool = False


def imports_of(tree: ast.Module, package: str) -> list[Import]:
    """All modules that Python source can import, including those imported inside functions.

    ``from a import b`` gives ``a`` and ``a.b``, as b may be a module.

    Args:
        package: dotted name of the package that the source is a module of; "" for none.
    """
    found: list[Import] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            if base is not None:
                names = [base, *(_joined(base, alias.name) for alias in node.names)]
                found += [Import(name, node.lineno, node.level > 0) for name in names if name]
        elif isinstance(node, ast.Call) and (name := _called(node)) is not None:
            plain = isinstance(node.func, ast.Name) and node.func.id == "__import__"
            found.append(Import(name, node.lineno, call=not plain))
    return found


def _base(node: ast.ImportFrom, package: str) -> str | None:
    """The module before ``import``; None if leading dots lead out of the folder."""
    if node.level == 0:
        return node.module
    parts = package.split(".") if package else []
    up = node.level - 1
    if up > len(parts):
        return None
    return ".".join([*parts[: len(parts) - up], *([node.module] if node.module else [])])


def _joined(base: str, name: str) -> str:
    return f"{base}.{name}" if base else name


def _called(node: ast.Call) -> str | None:
    """The module that ``import_module("…")`` or ``__import__("…")`` imports, if it is a literal."""
    named = node.func.attr if isinstance(node.func, ast.Attribute) else None
    named = node.func.id if isinstance(node.func, ast.Name) else named
    if named not in ("import_module", "__import__") or not node.args:
        return None
    given = node.args[0]
    if not isinstance(given, ast.Constant) or not isinstance(given.value, str):
        return None
    return None if given.value.startswith(".") else given.value


def private_origin(name: str) -> str | None:
    """The location of a module that another machine cannot install.

    Args:
        name: the module's dotted name; only its first component counts.

    Returns:
        None for Python's own modules, for those of installed distributions (including editable
        ones), and for modules that are not found at all, which Python itself reports.
    """
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == "nas_theseus":
        return None
    if top == "__main__":
        return "the program that is running"
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # created by a program, without a file
        return None
    if spec is None or spec.origin in ("built-in", "frozen"):
        return None
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    if not places or any(is_installed(top, Path(place)) for place in places):
        return None
    return places[0]


def is_installed(top: str, place: Path) -> bool:
    """Whether a top-level module at this place belongs to Python or to a distribution."""
    if {"site-packages", "dist-packages"} & set(place.parts):
        return True
    real = place.resolve()
    own = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
    if any(real.is_relative_to(folder) for folder in [*own, *_editable_folders()]):
        return True
    return top in importlib.metadata.packages_distributions()


@cache
def _editable_folders() -> tuple[Path, ...]:
    """Folders of projects installed in editable mode (PEP 610)."""
    found = []
    for distribution in importlib.metadata.distributions():
        said = json.loads(distribution.read_text("direct_url.json") or "{}")
        if said.get("dir_info", {}).get("editable"):
            found.append(Path(unquote(urlparse(said["url"]).path)).resolve())
    return tuple(found)
