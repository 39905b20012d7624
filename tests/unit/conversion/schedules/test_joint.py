"""Stages of the schedule `joint`."""

from __future__ import annotations

import pytest

from nas_theseus.conversion.stage import Stage, stages
from nas_theseus.values.recipe import Order


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_all_blocks_train_in_one_stage_whatever_the_order(order: Order) -> None:
    assert stages("joint", order, (1, 3)) == [Stage(1, 4, (1, 3), (1, 3), 3, (1, 3))]
