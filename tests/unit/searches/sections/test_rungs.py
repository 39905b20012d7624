"""Kendall's tau against counted pairs."""

from __future__ import annotations

import math
from itertools import combinations

from nas_theseus.pictures.page import Table
from nas_theseus.searches.records import Records
from nas_theseus.searches.sections.rungs import MEMBER


def tau_b(pairs: list[tuple[float, float]]) -> float:
    signs = [((a > c) - (a < c), (b > d) - (b < d)) for (a, b), (c, d) in combinations(pairs, 2)]
    agreeing = sum(first * second for first, second in signs)
    untied = [sum(sign[place] != 0 for sign in signs) for place in (0, 1)]
    return agreeing / math.sqrt(untied[0] * untied[1])


def test_tau_of_each_rung_and_the_values_that_it_compares(finished: Records) -> None:
    taus, values = (piece for piece in MEMBER.write(finished) if isinstance(piece, Table))
    curves = [[point.value for point in e.curve[:3]] for e in finished.evaluations]
    for rung, row in enumerate(taus.rows):
        expected = tau_b([(curve[rung], curve[2]) for curve in curves])
        assert row[1] == f"{expected:.2f}"
        assert row[2] == ("yes" if expected >= 0.5 else "no")
    assert [list(row[1:]) for row in values.rows] == [
        [f"{value:.4f}" for value in curve] for curve in curves
    ]
