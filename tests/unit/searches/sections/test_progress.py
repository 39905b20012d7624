"""Hypervolume, compute and time against sums by hand."""

from __future__ import annotations

import math

import pytest

from nas_theseus.pictures.page import Table
from nas_theseus.searches.records import Records
from nas_theseus.searches.sections.progress import MEMBER, moments
from nas_theseus.values.outcomes import Evaluation
from tests.unit.searches.recorded import REFERENCE


def area(evaluations: list[Evaluation]) -> float:
    """Hypervolume in two dimensions: strips between the costs, each as high as the best quality."""
    right, floor = math.log10(REFERENCE["macs"]), REFERENCE["val_accuracy"]
    points = sorted((math.log10(e.value("macs")), e.value("val_accuracy")) for e in evaluations)
    ends = [cost for cost, _ in points[1:]] + [right]
    total, best = 0.0, floor
    for (cost, quality), end in zip(points, ends, strict=True):
        best = max(best, quality)
        total += max(0.0, min(end, right) - min(cost, right)) * (best - floor)
    return total


def test_each_moment_has_the_sums_of_all_before_it(finished: Records) -> None:
    found = moments(finished)
    done = [one.evaluation for one in found]
    assert len(found) == 10
    for count, one in enumerate(found, 1):
        assert one.hypervolume == pytest.approx(area(done[:count]))
    # Two blocks and three candidates; a failed block, two stopped, three failed; seven candidates.
    assert [round(one.elapsed_s / 60) for one in found] == [3, 4, 5, *range(12, 19)]
    spent = 1400 + sum(e.train_macs_spent for e in done)
    spent += sum(one.evaluation.train_macs_spent for one in finished.stopped)
    assert found[-1].macs == spent
    assert found[0].macs == 1400 + done[0].train_macs_spent
    (table,) = (piece for piece in MEMBER.write(finished) if isinstance(piece, Table))
    assert [row[-1] for row in table.rows] == [f"{one.hypervolume:.4f}" for one in found]
