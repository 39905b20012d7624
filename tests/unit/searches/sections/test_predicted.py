"""Predictions: from the others alone, and those of the rungs against a fitted line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nas_theseus.pictures.page import Paragraph, Table
from nas_theseus.searches.records import Records
from nas_theseus.searches.sections.predicted import MEMBER, predictions
from nas_theseus.values.outcomes import Evaluation
from tests.unit.searches.recorded import GOALS


def test_a_network_is_predicted_without_its_own_quality(finished: Records) -> None:
    before = predictions(finished, GOALS[0])
    changed = before[3].evaluation
    metrics = {"val_accuracy": changed.value("val_accuracy") - 0.3}
    outcomes = tuple(
        replace(one, metrics=metrics)
        if isinstance(one, Evaluation) and one.name == changed.name
        else one
        for one in finished.outcomes
    )
    after = predictions(replace(finished, outcomes=outcomes), GOALS[0])
    assert after[3].evaluation.name == changed.name
    assert after[3].quality == before[3].quality
    same = [a.quality == b.quality for a, b in zip(after, before, strict=True)]
    assert sum(same) == 2  # its own group of five


def test_rungs_predict_by_a_line_through_the_others(finished: Records) -> None:
    found = predictions(finished, GOALS[0])
    for row, one in enumerate(found):
        rest = [e.evaluation.curve for i, e in enumerate(found) if i % 5 != row % 5]
        for rung, name in enumerate(("converted", "epoch_1")):
            there, end = np.array([(curve[rung].value, curve[2].value) for curve in rest]).T
            slope = float(np.clip(np.polyfit(there, end, 1)[0], 0, 1))
            line = end.mean() + slope * (one.evaluation.curve[rung].value - there.mean())
            assert one.at_rungs[name] == pytest.approx(min(line, end.max()))


def test_the_text_counts_what_the_table_shows(finished: Records) -> None:
    text, _, table = MEMBER.write(finished)
    assert isinstance(text, Paragraph) and isinstance(table, Table)
    inside = 0
    for one in predictions(finished, GOALS[0]):
        inside += abs(one.evaluation.value("val_accuracy") - one.quality) <= 2 * one.deviation
    assert f"{inside} of 10 values are within two standard deviations" in text.text
    assert len(table.rows) == 10 and len(table.columns) == 5


def test_a_minimised_quality_is_predicted_in_its_own_units(finished: Records) -> None:
    perplexity = replace(GOALS[0], direction="minimize")
    turned = replace(finished, begun=replace(finished.begun, objectives=(perplexity, GOALS[1])))
    for one in predictions(turned, perplexity):
        assert one.quality > 0 and 0 < one.deviation < one.quality
