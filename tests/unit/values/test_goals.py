"""Limits: how far values miss them."""

from __future__ import annotations

import pytest

from nas_theseus.values.goals import Constraint


def test_a_violation_is_a_share_of_the_limit() -> None:
    limit = Constraint("macs", "<=", 100)
    assert limit.violation({"macs": 150}) == pytest.approx(0.5)
    assert limit.violation({"macs": 100}) == 0
    assert limit.violation({}) == 0
    assert Constraint("val_accuracy", ">=", 0.5).violation({"val_accuracy": 0.4}) > 0
