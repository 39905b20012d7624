"""What an object must have to be a similarity or schedule, and what is said where it has not."""

from __future__ import annotations

from typing import Any

import pytest

from nas_theseus.conversion.similarity import Similarity
from nas_theseus.conversion.stage import Schedule, Stage
from nas_theseus.errors import ConversionError, TheseusError, UnknownNameError
from nas_theseus.values.own_members import SCHEDULE, SIMILARITY, Kind, recorded_name, with_options
from nas_theseus.values.recipe import Order
from nas_theseus.values.registers import SIMILARITIES


class Given:
    """A similarity with other attributes than it should have."""

    def __init__(self, **attributes: Any) -> None:
        good = {"name": "given", "aligned_basis": True, "minimum_examples": 2}
        vars(self).update({**good, **attributes})

    def prepare(self, guide: Any) -> Any:
        return guide

    def loss(self, features: Any, prepared: Any) -> Any:
        return features - prepared


@pytest.mark.parametrize(("kind", "protocol"), [(SIMILARITY, Similarity), (SCHEDULE, Schedule)])
def test_what_is_asked_for_is_what_the_protocol_says(kind: Kind, protocol: type) -> None:
    declared = {*vars(protocol), *getattr(protocol, "__annotations__", {})}
    asked = {"name", *kind.methods, *kind.facts}
    assert asked == {name for name in declared if not name.startswith("_")}


def test_every_member_of_the_package_has_what_is_asked_for() -> None:
    for kind in (SIMILARITY, SCHEDULE):
        for name in kind.register:
            member = kind.register[name]
            assert all(callable(getattr(member, method)) for method in kind.methods)
            assert all(hasattr(member, fact) for fact in kind.facts)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, "a similarity is a name .*cka.* or an object of your own; 5 has no attribute 'name'"),
        (None, "None has no attribute 'name'"),
        (Given(name=None), "has no attribute 'name'"),
        (Given(name="a b"), "'a b' cannot be the name of a similarity: use letters"),
        (Given(name="a@b"), "'a@b' cannot be the name"),
        (Given(name=""), "'' cannot be the name"),
        (Given(name=3), "3 cannot be the name"),
        (Given(name="cka"), "'cka' is part of nas-theseus; choose another name for yours"),
        (Given(loss=3), r"'given' \(Given\) lacks a method loss\(features, prepared\)"),
        (Given(prepare=lambda: None), r"lacks a method prepare\(guide\): .*similarities"),
        (Given(held=iter([])), "a list_iterator has no description .* use numbers"),
    ],
)
def test_an_object_that_will_not_do_is_refused_with_the_remedy(given: Any, message: str) -> None:
    with pytest.raises(TheseusError, match=message):
        recorded_name(SIMILARITY, given)


def test_all_that_is_missing_is_said_at_once() -> None:
    class Bare:
        name = "bare"

    with pytest.raises(
        ConversionError,
        match=r"method stages\(order, replaced\), an attribute 'is_control', .*'fresh', .*'taught'",
    ):
        recorded_name(SCHEDULE, Bare())


def test_a_class_that_needs_arguments_is_refused() -> None:
    class Needs(Given):
        def __init__(self, temperature: float) -> None:
            super().__init__(temperature=temperature)

    with pytest.raises(ConversionError, match=r"Needs\(\) fails \(TypeError: .*temperature.* give"):
        recorded_name(SIMILARITY, Needs)
    assert recorded_name(SIMILARITY, Needs(2.0)).startswith("given@")


def test_a_version_that_is_not_here_says_whether_another_is() -> None:
    with pytest.raises(UnknownNameError, match="'unseen@01234567' is defined in a space file that"):
        recorded_name(SIMILARITY, "unseen@01234567")
    name = recorded_name(SIMILARITY, Given(name="seen"))
    with pytest.raises(UnknownNameError, match=f"'seen@01234567' was edited since: {name} is load"):
        recorded_name(SIMILARITY, "seen@01234567")
    assert recorded_name(SIMILARITY, name) == name


def test_only_plain_names_are_listed() -> None:
    class Listed(Schedule):
        name = "listed"

        def stages(self, order: Order, replaced: tuple[int, ...]) -> list[Stage]:
            return []

    recorded_name(SCHEDULE, Listed())
    assert "listed" in SCHEDULE.register.one_of
    assert "@" not in SCHEDULE.register.one_of


def test_an_object_that_is_no_dataclass_has_no_options() -> None:
    with pytest.raises(ConversionError, match="'given' has no option k; .* and it has none"):
        with_options(SIMILARITIES, Given(), {"k": 2})
