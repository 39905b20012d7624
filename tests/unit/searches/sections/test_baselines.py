"""Baselines of the same cost, against loops over all evaluations."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

from nas_theseus.pictures.page import Link, Paragraph, Plot, Table
from nas_theseus.searches.figures import number
from nas_theseus.searches.records import Records, is_uniform
from nas_theseus.searches.sections.baselines import MEMBER
from nas_theseus.values.goals import Objective
from nas_theseus.values.outcomes import Evaluation
from tests.unit.searches.recorded import CHANCE, Recorded, evaluation


def best(others: list[Evaluation], most: float) -> str:
    within = [one.value("val_accuracy") for one in others if one.value("macs") <= most]
    return number(max(within)) if within else "–"


def test_each_network_is_beside_what_costs_no_more(tmp_path: Path) -> None:
    ours, other = Recorded(tmp_path), Recorded(tmp_path, "chance", "random")
    ours.finish()
    for width in (1, 4):
        other.save(evaluation(((1, width), (1, width), (1, 5 - width))))
    records = ours.records
    _, plot, table, text = MEMBER.write(records)
    assert isinstance(plot, Plot) and isinstance(table, Table) and isinstance(text, Paragraph)
    by_id = {m.evaluation.architecture.id: m.evaluation for m in records.members}
    assert len(table.rows) == len(by_id)
    costs, seen = [], 0
    for row in table.rows:
        assert isinstance(row[0], Link)
        one = by_id.pop(row[0].text)
        macs = one.value("macs")
        costs.append(macs)
        uniform = [e for e in records.evaluations if is_uniform(e.architecture)]
        assert row[3] == best(uniform, macs)
        assert row[4] == best(list(records.random), macs)
        pairs = zip(CHANCE.costs["macs"], CHANCE.quality, strict=True)
        near = [quality for cost, quality in pairs if 0.8 * macs <= cost <= macs]
        seen += len(near)
        middle = f"{number(statistics.median(near))} ({number(max(near))})" if near else ""
        assert row[5] == (f"{middle} of {len(near)}" if near else "–")
    assert costs == sorted(costs) and seen
    drawn = {trace.name: len(trace.x) for trace in plot.figure.data}
    assert drawn["random architectures, predicted"] == 200 and drawn["front"] == len(table.rows)
    assert "200 random architectures" in text.text and "25% of their new blocks" in text.text


def test_what_is_missing_is_said(empty: Records, finished: Records) -> None:
    (said,) = MEMBER.write(empty)
    assert isinstance(said, Paragraph) and said.text == "This search has no front yet."
    *_, text = MEMBER.write(replace(finished, chance=None))
    assert isinstance(text, Paragraph)
    assert "No random search" in text.text and "none are recorded here" in text.text


def test_less_is_better_where_the_search_minimises(finished: Records) -> None:
    goals = (Objective("val_accuracy", "minimize"), Objective("macs", "minimize", log=True))
    begun = replace(finished.begun, objectives=goals)
    table = MEMBER.write(replace(finished, begun=begun))[2]
    assert isinstance(table, Table)
    cell = str(table.rows[-1][5])
    middle, rest = cell.split(" (")
    assert float(rest.split(")")[0]) < float(middle)
