"""Numbers and durations as people read them."""

from __future__ import annotations

import math

import pytest

from nas_theseus.searches.figures import duration, energy_of, number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0.0, "0.0000"), (0.90312, "0.9031"), (0.000123456, "0.000123"),
        (-0.5, "-0.5000"), (12.3456, "12.35"), (6006.4, "6.01 k"), (999, "999"), (7, "7"),
        (2_521_056, "2.52 M"), (math.inf, "inf"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (90, "1.5 min"), (9000, "2.5 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("joules", "text"), [(0.5, "0.5 J"), (999, "999 J"), (4500, "4.5 kJ"), (7.2e6, "2 kWh")]
)
def test_energies(joules: float, text: str) -> None:
    assert energy_of(joules) == text
