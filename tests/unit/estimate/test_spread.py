"""Spread over seeds: Welch's test against scipy's, and what few seeds cannot say."""

from __future__ import annotations

import math

import pytest
from scipy.stats import ttest_ind  # type: ignore[import-untyped]

from nas_theseus.estimate.spread import Spread, chance_of_difference, holm

FIRST, SECOND = Spread((0.91, 0.93, 0.90, 0.92)), Spread((0.95, 0.94, 0.97))


def test_mean_and_deviation_are_those_of_a_sample() -> None:
    assert FIRST.mean == pytest.approx(0.915)
    assert FIRST.deviation == pytest.approx(math.sqrt(0.0005 / 3))
    assert math.isnan(Spread((0.5,)).deviation)


def test_welch_as_scipy_has_it() -> None:
    expected = ttest_ind(FIRST.values, SECOND.values, equal_var=False).pvalue
    assert 0.001 < expected < 0.1
    assert chance_of_difference(FIRST, SECOND) == pytest.approx(expected)
    assert chance_of_difference(SECOND, FIRST) == pytest.approx(expected)


def test_a_network_that_does_not_spread_is_compared_with_one_that_does() -> None:
    fixed = Spread((0.99, 0.99, 0.99))
    assert 0 < chance_of_difference(FIRST, fixed) < 0.05
    assert chance_of_difference(fixed, Spread((0.98, 1.0, 0.99))) == pytest.approx(1.0)


@pytest.mark.parametrize(("count", "expected"), [(2, 2 / 6), (3, 2 / 20), (4, 2 / 70)])
def test_two_that_do_not_spread_are_told_apart_by_many_seeds_only(
    count: int, expected: float
) -> None:
    low, high = Spread((0.95,) * count), Spread((0.96,) * count)
    assert chance_of_difference(low, high) == pytest.approx(expected)
    assert chance_of_difference(low, low) == 1.0


def test_one_value_says_nothing() -> None:
    assert chance_of_difference(Spread((0.1,)), SECOND) == 1.0


def test_several_tests_together_by_brute_force() -> None:
    given = [0.01, 0.04, 0.03, 0.2]
    assert holm(given) == pytest.approx([0.04, 0.09, 0.09, 0.2])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
