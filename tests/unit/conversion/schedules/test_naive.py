"""Stages of the schedule `naive`."""

from __future__ import annotations

import pytest

from nas_theseus import Recipe
from nas_theseus.conversion.stage import Stage, stages
from nas_theseus.values.recipe import Order


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("forward", [Stage(1, 2, (), (), None, (1,)), Stage(3, 4, (), (), None, (1, 3))]),
        ("reverse", [Stage(3, 4, (), (), None, (3,)), Stage(1, 2, (), (), None, (1, 3))]),
    ],
)
def test_blocks_are_put_in_one_by_one_and_nothing_is_aligned(
    order: Order, expected: list[Stage]
) -> None:
    assert stages("naive", order, (1, 3)) == expected


def test_it_is_a_control_that_keeps_the_guide_s_weights() -> None:
    recipe = Recipe(schedule="naive", library=True)
    assert recipe.is_control and recipe.taught
    assert not recipe.untouched_by_guide and not recipe.takes_blocks
