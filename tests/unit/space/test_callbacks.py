"""What a callback of a space file may be, and what is refused before any training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from nas_theseus import SearchSpace, cut
from nas_theseus.blocks import Keep
from nas_theseus.errors import SpaceError
from nas_theseus.space.callbacks import refusal
from nas_theseus.tasks import digits


class Both:
    def __call__(self, outcome: object) -> None: ...

    def front(self, front: object) -> None: ...


class NoArgument:
    def outcome(self) -> None: ...


class TwoArguments:
    def __call__(self, outcome: object, front: object) -> None: ...

    def end(self, status: str) -> None: ...


def space(callbacks: object) -> SearchSpace:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    guide = cut(nn.Sequential(nn.Conv2d(1, 4, 3), head), ["0"], (1, 8, 8))
    return SearchSpace(guide, digits(), [Keep()], callbacks=callbacks)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "callback",
    [print, lambda outcome: None, Both(), SimpleNamespace(end=print), [].append],
    ids=["function", "lambda", "object and function", "one method", "written in C"],
)
def test_functions_and_objects_with_a_method_are_callbacks(callback: object) -> None:
    assert refusal(callback) is None


@pytest.mark.parametrize(
    ("callback", "reason"),
    [
        (Both, r"Both is a class; pass an instance, such as Both\(\)"),
        ("print", r"'print' \(str\) is not a function and has none of the methods begin, outcome"),
        (NoArgument(), r"NoArgument.outcome must take one argument, not \(\) -> "),
        (TwoArguments(), r"TwoArguments must take one argument, not \(outcome"),
        (SimpleNamespace(front=3), r"SimpleNamespace.front must be a method, not 3 \(int\)"),
    ],
)
def test_what_is_no_callback_is_refused_with_the_reason(callback: object, reason: str) -> None:
    with pytest.raises(SpaceError, match=f"callbacks: {reason}"):
        space([callback])


def test_callbacks_are_a_list() -> None:
    with pytest.raises(SpaceError, match="callbacks: must be a list"):
        space(print)
    assert space([print]).callbacks == [print]
