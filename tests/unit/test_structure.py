"""What every module of the package keeps to: short functions, few parameters, one name each."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas_theseus.values import registers
from nas_theseus.values.registers import Register

PACKAGE = Path(__file__).resolve().parents[2] / "nas_theseus"
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES, MOST_PARAMETERS, MOST_LINES_OF_A_MODULE = 60, 8, 510
COMMANDS = PACKAGE / "cli" / "commands"
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(module: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            yield node


def lines(function: Function) -> int:
    """Lines of a function without its docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function, clean=False) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def parameters(function: Function) -> int:
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return sum(one.arg not in ("self", "cls") for one in named)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_are_short_and_take_few_parameters(module: Path) -> None:
    own = list(functions(module))
    assert [f.name for f in own if lines(f) > MOST_LINES] == []
    if not module.is_relative_to(COMMANDS):
        assert [f.name for f in own if parameters(f) > MOST_PARAMETERS] == []
    text = module.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES_OF_A_MODULE
    assert "# fmt: skip" not in text
    documented = ast.get_docstring(ast.parse(text))
    assert documented, "its first line says what it is for"


def test_no_two_modules_have_one_name() -> None:
    """Files of commands and of registers are named after what they hold."""
    kinds = [kind for kind in vars(registers).values() if isinstance(kind, Register)]
    named = {COMMANDS, *(PACKAGE / kind.folder for kind in kinds)}
    names = [
        module.name
        for module in MODULES
        if module.name != "__init__.py" and module.parent not in named
    ]
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_every_register_has_members_and_each_member_is_one_file() -> None:
    kinds = [kind for kind in vars(registers).values() if isinstance(kind, Register)]
    assert len(kinds) >= 8
    for kind in kinds:
        files = {path.stem for path in (PACKAGE / kind.folder).glob("*.py")} - {"__init__"}
        assert {name.replace("-", "_") for name in kind} == files, kind.kind
        for name in kind:
            assert kind[name] is not None


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
