"""Stages of the schedule `sequential`."""

from __future__ import annotations

import pytest

from nas_theseus.conversion.stage import Stage, stages
from nas_theseus.values.recipe import Order


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("forward", [Stage(1, 2, (1,), (1,), 1, (1,)), Stage(1, 4, (3,), (3,), 3, (1, 3))]),
        ("reverse", [Stage(3, 4, (3,), (3,), 3, (3,)), Stage(1, 4, (1,), (1, 3), 1, (1, 3))]),
    ],
)
def test_the_newest_block_trains_alone_in_reverse_all_behind_it_are_aligned(
    order: Order, expected: list[Stage]
) -> None:
    assert stages("sequential", order, (1, 3)) == expected
