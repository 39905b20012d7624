"""Modelling files: what is copied, what is imported, in which order, and what is refused."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from nas_theseus.errors import ExportError
from nas_theseus.export.huggingface.program import write_program

SPACE = "theseus_space_0123abcd"
HELPERS = """
import functools
from math import tau as full_turn

_UNUSED = 7


def _limit(x):
    return min(x, LIMIT)


# Largest number
# that is returned.
LIMIT = 40 + 2
"""
OWN = '''
"""A space file."""

from __future__ import annotations

import collections.abc
from typing import TYPE_CHECKING

from helpers import _limit as limit, full_turn
from nas_theseus.blocks import GRU
from nas_theseus.errors import ShapeError

if TYPE_CHECKING:
    from fractions import Fraction


def decorated(function):
    return function


@decorated
class Base:
    size = len("four")


class Mine(Base):
    """Mine."""

    def value(self, x: Fraction) -> float:  # type: ignore[name-defined]
        GRU = 3  # a local name
        if x < 0:
            raise ShapeError("below 0")
        return limit(x) + GRU * self.size + full_turn * 0

    def names(self) -> collections.abc.Iterator[str]:
        yield from ("a", "b")


def other():
    return GRU
'''


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a space file's module, with a module beside it."""
    add(monkeypatch, SPACE, OWN)
    add(monkeypatch, f"{SPACE}.helpers", HELPERS)
    return SPACE


def add(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    module = ModuleType(name)
    module.__source__ = text  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)


def run(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(text, found)
    return found


def test_what_a_class_needs_is_copied_in_order_and_nothing_else(space: str) -> None:
    text = write_program([(space, "Mine")], "Header.", {}, space)
    found = run(text)
    assert found["Mine"]().value(50) == 42 + 3 * 4
    with pytest.raises(found["ShapeError"], match="below 0"):
        found["Mine"]().value(-1)
    assert text.startswith('"""Header."""\n\nfrom __future__ import annotations\n')
    for line in (
        "import collections.abc",
        "from fractions import Fraction",
        "from math import tau as full_turn",
        "# From the space file\n",
        "# From the space file.helpers\n",
        "# Largest number\n# that is returned.\nLIMIT = 40 + 2\n",
        "@decorated\nclass Base:",
    ):
        assert line in text, line
    assert text.index("LIMIT = ") < text.index("class Base") < text.index("class Mine")
    for left_out in ("_UNUSED", "functools", "def other", "BlockFamily", "type: ignore", SPACE):
        assert left_out not in text, left_out
    assert "\n\n\n\n" not in text


def test_definitions_can_be_replaced(space: str) -> None:
    replaced = {(f"{space}.helpers", "LIMIT"): "LIMIT = 5"}
    text = write_program([(space, "Mine")], "Header.", replaced, space)
    assert run(text)["Mine"]().value(50) == 5 + 12


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import helpers\ndef f(): return helpers.LIMIT", "imports helpers as a whole"),
        ("from nas_theseus import blocks\ndef f(): return blocks", "nas_theseus.blocks as a whole"),
        ("from helpers import *\ndef f(): return LIMIT", "imports \\*, so that nobody can tell"),
        ("from b import f as g\ndef f(): return g()", "called f: in theseus_space_0123abcd"),
        ("def g(): return 1", "does not define f at its top level"),
    ],
)
def test_what_cannot_be_copied_is_named(
    text: str, said: str, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, space, text)
    add(monkeypatch, f"{space}.b", "def f(): return 2")
    with pytest.raises(ExportError, match=said):
        write_program([(space, "f")], "Header.", {}, space)


def test_compiled_modules_are_imported() -> None:
    text = write_program(
        [("torch.nn", "Linear"), ("nas_theseus.errors", "ShapeError")],
        "H.",
        {},
        "nas_theseus.errors",
    )
    assert "from torch.nn import Linear" in text and "class TheseusError" in text
