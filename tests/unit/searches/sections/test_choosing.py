"""What to take within a budget, against a search through all evaluations."""

from __future__ import annotations

import math

import pytest

from nas_theseus.pictures.page import Link, Table
from nas_theseus.searches.records import Records
from nas_theseus.searches.sections.choosing import MEMBER, SHARES, choices, standard_error
from tests.unit.searches.recorded import EXAMPLES, GOALS, GUIDE


def test_the_best_within_each_budget_and_the_lead_over_the_second(finished: Records) -> None:
    (table,) = (piece for piece in MEMBER.write(finished) if isinstance(piece, Table))
    found = choices(finished, *GOALS)
    assert [one.share for one in found] == list(SHARES)
    for row, one in zip(table.rows, found, strict=True):
        limit = one.share * GUIDE["macs"]
        within = [e for e in finished.evaluations if e.value("macs") <= limit]
        ranked = sorted((e.value("val_accuracy") for e in within), reverse=True)
        if not within:
            assert one.best is None and row[1] == "none" and "cheapest" in str(row[-1])
            continue
        assert one.best is not None and isinstance(row[1], Link)
        assert one.best.evaluation.value("val_accuracy") == ranked[0]
        assert row[1].text == one.best.evaluation.architecture.id
        assert row[4] == f"{ranked[0] - 0.01:.4f}"
        if len(ranked) == 1:
            assert row[-1] == "the only one within this budget"
            continue
        assert one.second is not None and one.second.value("val_accuracy") == ranked[1]
        lead = ranked[0] - ranked[1]
        error = math.sqrt(sum(p * (1 - p) for p in ranked[:2]) / EXAMPLES)
        ends = ["within chance, either may be better", "probably better", "more than chance"]
        assert str(row[-1]).endswith(ends[min(2, int(lead / error))])
    assert any(one.best is None for one in found) and any(one.best for one in found)


def test_a_standard_error_is_known_for_accuracies_only(finished: Records) -> None:
    assert standard_error(finished, "val_accuracy", 0.5, 0.5) == pytest.approx(
        math.sqrt(2 * 0.25 / EXAMPLES)
    )
    assert standard_error(finished, "val_perplexity", 20.0, 21.0) is None
