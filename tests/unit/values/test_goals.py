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


def test_what_only_equals_chance_is_no_better() -> None:
    more = Constraint("val_accuracy", ">=", 0.1, chance=True)
    rounded = 0.10000000149011612  # 0.1 in single precision, as metrics return it
    assert more.violation({"val_accuracy": 0.1}) > 0
    assert more.violation({"val_accuracy": rounded}) > 0
    assert more.violation({"val_accuracy": 0.1001}) == 0
    less = Constraint("val_perplexity", "<=", 12.0, chance=True)
    assert less.violation({"val_perplexity": 12.0}) > 0
    assert less.violation({"val_perplexity": 11.9}) == 0
    assert less.violation({}) == 0
    none = Constraint("val_r2", ">=", 0.0, chance=True)
    assert none.violation({"val_r2": 0.0}) > 0
    assert none.violation({"val_r2": -0.5}) == pytest.approx(50, rel=1e-3)
    assert str(more) == "val_accuracy > 0.1 (chance)"
    assert str(less) == "val_perplexity < 12 (chance)"
