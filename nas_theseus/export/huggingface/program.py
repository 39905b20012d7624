"""One Python file with everything that some classes and functions need from our own modules.

Definitions are copied as they are written. Those of nas_theseus, of a space's own file and of the
modules beside it are copied; those of installed packages are imported.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from nas_theseus.errors import ExportError
from nas_theseus.space.imports import private_origin

_PACKAGE, _SPACE = "nas_theseus", "theseus_space_"
_IGNORED = re.compile(r"  # (type: ignore|noqa)\b.*$", re.MULTILINE)


def write_program(
    needed: Iterable[tuple[str, str]],
    header: str,
    replaced: Mapping[tuple[str, str], str],
    last: str,
) -> str:
    """Source text of one module that defines these names and all that they need.

    Args:
        needed: module and name of each.
        header: docstring of the module.
        replaced: other source text for some definitions, by module and name.
        last: module whose definitions come after all others.

    Raises:
        ExportError: a definition cannot be copied.
    """
    program = _Program()
    for module, name in [*needed, *replaced]:
        program.add(module, name)
    program.behind[last] |= set(program.copied) - {last}
    text = program.text(header, replaced)
    try:
        compile(text, "modeling file", "exec")
    except SyntaxError as error:
        raise ExportError(f"the modelling file is not valid Python: {error}") from error
    return text


@dataclass(frozen=True)
class _Source:
    """A module's text, and the statement that binds each of its names."""

    text: str
    statements: Mapping[str, ast.stmt]

    def segment(self, statement: ast.stmt) -> str:
        """The text of a statement, with its decorators and the comment above it."""
        lines = self.text.splitlines()
        decorators = getattr(statement, "decorator_list", [])
        first = min([statement.lineno, *(one.lineno for one in decorators)]) - 1
        while first and lines[first - 1].startswith("#"):
            first -= 1
        return _IGNORED.sub("", "\n".join(lines[first : statement.end_lineno]))


class _Program:
    """The definitions to be copied, by module, and the imports that they need."""

    def __init__(self) -> None:
        self.copied: dict[str, dict[str, ast.stmt]] = {}
        self.behind: dict[str, set[str]] = {}  # modules whose definitions come before
        self.imports: set[str] = set()
        self.taken: dict[str, set[str]] = {}  # names imported from installed modules
        self.origin: dict[str, str] = {}
        self.seen: set[tuple[str, str]] = set()

    def add(self, module: str, name: str) -> None:
        """Copy or import a name that a module binds, and what it needs."""
        if (module, name) in self.seen:
            return
        self.seen.add((module, name))
        if not _is_own(module):
            self._own_name(name, f"{module}.{name}")
            self.taken.setdefault(module, set()).add(name)
            return
        statement = _source(module).statements.get(name)
        if statement is None:
            raise ExportError(f"{module} does not define {name} at its top level")
        if isinstance(statement, ast.Import):
            self._import(module, statement, name)
        elif isinstance(statement, ast.ImportFrom):
            self._import_from(module, statement, name)
        else:
            if "*" in _source(module).statements:
                raise ExportError(
                    f"{module} imports *, so that nobody can tell what {name} needs; import names"
                )
            self._own_name(name, module)
            self.copied.setdefault(module, {})[name] = statement
            self.behind.setdefault(module, set())
            for other in sorted(_names(statement) & set(_source(module).statements)):
                self.add(module, other)

    def _import(self, module: str, statement: ast.Import, name: str) -> None:
        for alias in statement.names:
            if (alias.asname or alias.name.partition(".")[0]) == name:
                if _own(alias.name, module) is not None:
                    raise _whole(module, alias.name)
                self._own_name(name, f"import {alias.name}")
                self.imports.add(f"import {_shown(alias)}")

    def _import_from(self, module: str, statement: ast.ImportFrom, name: str) -> None:
        alias = next(one for one in statement.names if (one.asname or one.name) == name)
        target = "." * statement.level + (statement.module or "")
        own = _own(target, module)
        if own is None:
            if target != "__future__":
                self._own_name(name, f"{target}.{alias.name}")
                self.taken.setdefault(target, set()).add(_shown(alias))
            return
        if alias.name not in _source(own).statements:
            raise _whole(module, f"{own}.{alias.name}")
        self.add(own, alias.name)
        if own != module:
            self.behind.setdefault(module, set()).add(own)
        if alias.asname not in (None, alias.name):
            self._own_name(name, module)
            stand_in = ast.parse(f"{name} = {alias.name}").body[0]
            self.copied.setdefault(module, {})[name] = stand_in

    def _own_name(self, name: str, origin: str) -> None:
        """Refuse one name for two things."""
        if self.origin.setdefault(name, origin) != origin:
            raise ExportError(
                f"two different things are called {name}: in {self.origin[name]} and in {origin}; "
                "rename one of them"
            )

    def text(self, header: str, replaced: Mapping[tuple[str, str], str]) -> str:
        try:
            order = list(TopologicalSorter(self.behind).static_order())
        except CycleError as error:
            raise ExportError(f"modules import each other: {', '.join(error.args[1])}") from error
        parts = [f'"""{header}"""', "from __future__ import annotations", self._imports()]
        for module in order:
            parts += self._module(module, replaced)
        text = "\n\n".join(part for part in parts if part)
        return re.sub(r"\n{4,}", "\n\n\n", text).strip() + "\n"

    def _imports(self) -> str:
        froms = [
            f"from {module} import {', '.join(sorted(names))}"
            for module, names in self.taken.items()
        ]
        known = sys.stdlib_module_names
        lines = sorted(self.imports) + sorted(froms)
        standard = [line for line in lines if re.split(r"[ .]", line)[1] in known]
        others = [line for line in lines if line not in standard]
        return "\n\n".join("\n".join(group) for group in (standard, others) if group)

    def _module(self, module: str, replaced: Mapping[tuple[str, str], str]) -> Iterator[str]:
        source, copied = _source(module), self.copied.get(module, {})
        if copied:
            yield f"\n# From {_SPACE_NAME.sub('the space file', module)}"
        written: set[int] = set()
        for name, statement in sorted(copied.items(), key=lambda item: item[1].lineno):
            if id(statement) in written:  # one statement binds several names
                continue
            written.add(id(statement))
            if (module, name) in replaced:
                text = replaced[module, name]
            elif statement in source.statements.values():
                text = source.segment(statement)
            else:
                text = ast.unparse(statement)
            yield text if isinstance(statement, ast.Assign | ast.AnnAssign) else f"\n{text}\n"


_SPACE_NAME = re.compile(rf"^{_SPACE}[0-9a-f]+")


@cache
def _parsed(text: str) -> _Source:
    statements: dict[str, ast.stmt] = {}
    for statement in ast.parse(text).body:
        for name, one in _bound(statement):
            statements.setdefault(name, one)
    return _Source(text, statements)


def _source(module: str) -> _Source:
    """A module's text, which need not be a file: that of a space is kept with the module.

    Raises:
        ExportError: there is none, as of compiled modules.
    """
    text = getattr(sys.modules.get(module), "__source__", None)
    if text is None:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise ExportError(f"the module {module} has no source text that can be copied")
        text = Path(spec.origin).read_text(encoding="utf-8")
    return _parsed(text)


def _own(target: str, importer: str) -> str | None:
    """The full name of a module whose definitions are copied; None for installed ones."""
    if target.startswith("."):
        package = importer if _is_package(importer) else importer.rpartition(".")[0]
        target = importlib.util.resolve_name(target, package)
    if importer.startswith(_SPACE):
        inside = f"{importer.partition('.')[0]}.{target}"
        if inside in sys.modules:
            return inside
    return target if _is_own(target) else None


def _is_own(module: str) -> bool:
    known = module.partition(".")[0] == _PACKAGE or module.startswith(_SPACE)
    return known or private_origin(module) is not None


def _is_package(module: str) -> bool:
    return hasattr(sys.modules.get(module), "__path__")


def _whole(importer: str, module: str) -> ExportError:
    return ExportError(
        f"{importer} imports {module} as a whole, which cannot be copied into a modelling file; "
        "import the names that are needed from it"
    )


def _shown(alias: ast.alias) -> str:
    return alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"


def _bound(statement: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    """Names that a statement at the top of a module binds, each with the statement to copy."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name, statement
    elif isinstance(statement, ast.Import):
        for alias in statement.names:
            yield alias.asname or alias.name.partition(".")[0], statement
    elif isinstance(statement, ast.ImportFrom):
        for alias in statement.names:
            yield alias.asname or alias.name, statement
    elif isinstance(statement, ast.If | ast.Try):
        for inner in ast.iter_child_nodes(statement):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                yield from _bound(inner)
    for node in ast.walk(statement):
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, statement


def _names(node: ast.AST) -> set[str]:
    """Names that a piece of code takes from its module; local names of functions are left out."""
    if isinstance(node, ast.Name):
        return {node.id}
    inner = [_names(child) for child in ast.iter_child_nodes(node)]
    found = set().union(*inner)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        given = node.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        arguments += [one for one in (given.vararg, given.kwarg) if one is not None]
        local = {one.arg for one in arguments}
        local |= {
            one.id
            for one in ast.walk(node)
            if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
        }
        outside = [
            *getattr(node, "decorator_list", []),
            *(one.annotation for one in arguments),
            *given.defaults,
            *given.kw_defaults,
            getattr(node, "returns", None),
        ]
        kept = set().union(*(_names(one) for one in outside if one is not None))
        found = (found - local) | kept
    return found
