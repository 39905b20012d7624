"""Which modules a Python text imports, and whether another machine can install them."""

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
    """One module that a text imports.

    Attributes:
        name: dotted, from the folder of the space file on: ``my_blocks``, ``package.module``.
        line: where in the text.
        relative: written with leading dots, so that it can only lie in the folder.
        call: imported by ``importlib.import_module("…")``, not by a statement.
    """

    name: str
    line: int
    relative: bool = False
    call: bool = False


def imports_of(tree: ast.Module, package: str) -> list[Import]:
    """All modules that a text may import, those inside functions included.

    ``from a import b`` gives ``a`` and ``a.b``, as b may be a module.

    Args:
        package: dotted name of the package that the text is a module of; "" for none.
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
    """The module in front of ``import``; None where leading dots lead out of the folder."""
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
    """What ``import_module("…")`` or ``__import__("…")`` imports, where it is written out."""
    named = node.func.attr if isinstance(node.func, ast.Attribute) else None
    named = node.func.id if isinstance(node.func, ast.Name) else named
    if named not in ("import_module", "__import__") or not node.args:
        return None
    given = node.args[0]
    if not isinstance(given, ast.Constant) or not isinstance(given.value, str):
        return None
    return None if given.value.startswith(".") else given.value


def private_origin(name: str) -> str | None:
    """Where a module lies that another machine cannot install.

    Args:
        name: a module's dotted name; its first part decides.

    Returns:
        None for Python's own modules, for those of installed distributions (editable ones
        included) and for those that are not found at all, which Python itself reports.
    """
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == "nas_theseus":
        return None
    if top == "__main__":
        return "the program that is running"
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # made by a program, without a file
        return None
    if spec is None or spec.origin in ("built-in", "frozen"):
        return None
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    if not places or any(is_installed(top, Path(place)) for place in places):
        return None
    return places[0]


def is_installed(top: str, place: Path) -> bool:
    """Whether a top-level module that lies there belongs to Python or to a distribution."""
    if {"site-packages", "dist-packages"} & set(place.parts):
        return True
    real = place.resolve()
    own = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
    if any(real.is_relative_to(folder) for folder in [*own, *_editable_folders()]):
        return True
    return top in importlib.metadata.packages_distributions()


@cache
def _editable_folders() -> tuple[Path, ...]:
    """Folders of projects that are installed in editable mode (PEP 610)."""
    found = []
    for distribution in importlib.metadata.distributions():
        said = json.loads(distribution.read_text("direct_url.json") or "{}")
        if said.get("dir_info", {}).get("editable"):
            found.append(Path(unquote(urlparse(said["url"]).path)).resolve())
    return tuple(found)
