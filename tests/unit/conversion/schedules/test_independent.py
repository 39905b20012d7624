"""Stages of the schedule `independent`."""

from __future__ import annotations

import pytest

from nas_theseus.conversion.stage import Stage, stages
from nas_theseus.values.recipe import Order


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("forward", [Stage(1, 2, (1,), (1,), 1, (1,)), Stage(3, 4, (3,), (3,), 3, (1, 3))]),
        ("reverse", [Stage(3, 4, (3,), (3,), 3, (3,)), Stage(1, 2, (1,), (1,), 1, (1, 3))]),
    ],
)
def test_each_block_is_fed_by_the_guide(order: Order, expected: list[Stage]) -> None:
    assert stages("independent", order, (1, 3)) == expected
