"""Fingerprints of users' own members: what changes them, and that nothing else does."""

from __future__ import annotations

import linecache
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nas_theseus.errors import ConversionError
from nas_theseus.values.member_fingerprint import member_fingerprint


def mark(member: object) -> str:
    return member_fingerprint("similarity", "mine", member)


class Holds:
    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass
class Nested:
    inner: Any


def double(value: float) -> float:
    return 2 * value


DIFFERENT = [
    None, True, 1, 1.0, "1", b"1", [1], [1, 2], {1: 2}, {2: 1}, {1}, {1, 2}, Path("a"),
    torch.zeros(2), torch.zeros(1, 2), torch.ones(2), torch.ones(2, dtype=torch.bfloat16),
    torch.tensor(1.0), np.zeros(2), np.ones(2), nn.Linear(2, 2, bias=False), nn.ReLU(),
    Nested(1), Nested(Nested(1)), double, partial(double, 2.0), partial(double, 3.0), len,
    Nested, np.float32, torch.float16, lambda: 0,
]  # fmt: skip


def test_every_value_of_a_field_has_a_fingerprint_of_its_own() -> None:
    torch.manual_seed(0)
    marks = [mark(Holds(value)) for value in DIFFERENT]
    assert len(set(marks)) == len(marks)
    assert [mark(Holds(value)) for value in DIFFERENT] == marks


def test_the_order_of_a_mapping_or_set_makes_no_difference() -> None:
    assert mark(Holds({"a": 1, "b": 2})) == mark(Holds({"b": 2, "a": 1}))
    assert mark(Holds({"x", "y", "z"})) == mark(Holds({"z", "x", "y"}))


def test_an_object_that_holds_itself_has_one() -> None:
    member = Holds(None)
    member.value = [member]
    assert mark(member) == mark(member) != mark(Holds([Holds(None)]))


def test_a_cached_property_makes_no_difference() -> None:
    class Caches(Holds):
        @cached_property
        def twice(self) -> float:
            return double(self.value)

    member = Caches(1.0)
    before = mark(member)
    assert member.twice == 2.0
    assert mark(member) == before


@pytest.mark.parametrize("value", [iter([]), (x for x in ()), object()])
def test_a_value_without_a_description_is_refused(value: Any) -> None:
    with pytest.raises(ConversionError, match="similarity 'mine': a .* has no description"):
        mark(Holds(value))


SOURCE = """
from dataclasses import dataclass
from functools import cached_property
import helper
from helper import scaled

FACTOR = 2.0
SETTINGS = {"power": 2}


def other(x):
    return x


class Base:
    def base(self, x):
        return x + 1


@dataclass(frozen=True)
class Mine(Base):
    slope: float = 1.0

    @property
    def rate(self):
        return other(FACTOR)

    @staticmethod
    def still(x):
        return helper.halved(x) ** SETTINGS["power"]

    @cached_property
    def cached(self):
        return 3

    def loss(self, x):
        return scaled(self.base(x)) + helper.LEAST


class Unrelated:
    pass
"""
HELPER = """
LEAST = 1e-3


def scaled(x):
    return deeper(x)


def deeper(x):
    return 2 * x


def halved(x):
    return x / 2


def unused(x):
    return 0
"""
SCRIPT = """
import sys
from nas_theseus.values.member_fingerprint import member_fingerprint
from own import Mine
print(member_fingerprint("similarity", "mine", Mine()))
"""


@pytest.fixture
def mark_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """The fingerprint of Mine() with edits of its two files; in this process."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def made(*edits: tuple[str, str]) -> str:
        for name in ("own", "helper"):
            sys.modules.pop(name, None)
        texts = {"own": SOURCE, "helper": HELPER}
        for before, after in edits:
            assert any(before in text for text in texts.values())
            texts = {name: text.replace(before, after) for name, text in texts.items()}
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
            for compiled in tmp_path.glob(f"__pycache__/{name}.*"):
                compiled.unlink()  # two versions may be of one size and second
        linecache.clearcache()
        from own import Mine  # type: ignore[import-not-found]

        return mark(Mine())

    yield made
    for name in ("own", "helper"):
        sys.modules.pop(name, None)  # another test's module may have this name


@pytest.mark.parametrize(
    "edit",
    [
        ("scaled(self.base(x)) + ", "scaled(self.base(x)) - "),
        ("slope: float = 1.0", "slope: float = 2.0"),
        ("return x + 1", "return x + 2"),
        ("return other(FACTOR)", "return other(-FACTOR)"),
        ("def other(x):\n    return x", "def other(x):\n    return -x"),
        ("FACTOR = 2.0", "FACTOR = 3.0"),
        ('"power": 2', '"power": 4'),
        ("return 3", "return 4"),
        ("LEAST = 1e-3", "LEAST = 1e-4"),
        ("return deeper(x)", "return deeper(-x)"),
        ("return 2 * x", "return 4 * x"),
        ("return x / 2", "return x / 4"),
    ],
    ids=lambda edit: edit[1].splitlines()[-1],
)
def test_an_edit_of_what_it_runs_changes_it(
    mark_of: Callable[..., str], edit: tuple[str, str]
) -> None:
    assert mark_of(edit) != mark_of()


@pytest.mark.parametrize(
    "edit",
    [
        ("class Unrelated:\n    pass", "class Unrelated:\n    more = 1"),
        ("return 0", "return 1"),
        ("\nLEAST", "\n# A comment.\n\nLEAST"),
    ],
    ids=["another class", "another function", "a comment between"],
)
def test_an_edit_of_something_else_does_not(
    mark_of: Callable[..., str], edit: tuple[str, str]
) -> None:
    assert mark_of(edit) == mark_of()


def test_it_is_the_same_in_every_process(mark_of: Callable[..., str], tmp_path: Path) -> None:
    expected = mark_of()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            cwd=tmp_path,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


TYPED = """
from nas_theseus.values.member_fingerprint import member_fingerprint

for body in ("x + 1", "x + 1", "x + 2", "x - 1", "abs(x)"):
    exec(f"class Typed:\\n    def loss(self, x):\\n        return {body}\\n")
    print(member_fingerprint("similarity", "mine", Typed()))
"""


def test_code_without_a_source_text_is_known_by_its_bytecode() -> None:
    done = subprocess.run([sys.executable, "-c", TYPED], capture_output=True, text=True, check=True)
    first, again, *others = done.stdout.split()
    assert first == again
    assert len({first, *others}) == 4
