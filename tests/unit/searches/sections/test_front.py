"""The front's table against dominance by brute force, and its baselines."""

from __future__ import annotations

from pathlib import Path

from nas_theseus.pictures.page import Link, Paragraph, Plot, Table
from nas_theseus.searches.figures import number
from nas_theseus.searches.records import Records, is_uniform
from nas_theseus.searches.sections.front import MEMBER
from nas_theseus.values.outcomes import Evaluation
from tests.unit.searches.recorded import Recorded, architecture, evaluation


def dominated(one: Evaluation, others: tuple[Evaluation, ...]) -> bool:
    here = one.value("val_accuracy"), -one.value("macs")
    there = [(other.value("val_accuracy"), -other.value("macs")) for other in others]
    return any(a >= here[0] and b >= here[1] and (a, b) != here for a, b in there)


def test_the_tables_have_the_front_the_guide_and_all_others(finished: Records) -> None:
    _, plot, table, others, _ = MEMBER.write(finished)
    assert isinstance(plot, Plot) and isinstance(table, Table) and isinstance(others, Table)
    best = {
        one.architecture.id: one
        for one in finished.evaluations
        if not dominated(one, finished.evaluations)
    }
    linked = [row for row in table.rows if isinstance(row[0], Link)]
    assert {row[0].text for row in linked} == set(best)  # type: ignore[union-attr]
    assert {row[0] for row in others.rows} == {
        one.architecture.id for one in finished.evaluations
    } - set(best)
    for row in linked:
        one = best[row[0].text]  # type: ignore[union-attr]
        accuracy = one.value("val_accuracy")
        expected = [number(accuracy), number(one.value("macs")), number(accuracy - 0.01)]
        assert list(row[1:4]) == expected
    assert list(table.rows[0]) == ["guide", "0.9500", "1 k", "0.9400", "–"]
    drawn = {trace.name: len(trace.x) for trace in plot.figure.data}
    assert drawn["guide"] == 1 and drawn["front"] == len(best)
    assert drawn["evaluations"] == len(others.rows)


def test_one_block_throughout_is_a_baseline() -> None:
    assert is_uniform(architecture(((1, 2), (1, 2), (1, 2))))
    assert not is_uniform(architecture(((1, 2), (1, 1), (1, 2))))
    assert not is_uniform(architecture(((1, 2), (1, 2), (1, 0))))  # half of the four parts
    assert not is_uniform(architecture(((1, 0), (1, 0), (1, 0))))


def test_a_search_at_random_with_the_same_guide_is_a_baseline(tmp_path: Path) -> None:
    ours, other = Recorded(tmp_path), Recorded(tmp_path, "chance", "random")
    ours.begin()
    shapes = [((1, 4), (1, 4), (1, 4)), ((1, 1), (1, 1), (1, 1))]
    for shape in shapes:
        other.save(evaluation(shape))
    (tmp_path / "searches" / "broken").mkdir()  # no reason to say nothing of ours
    records = ours.records
    assert {one.name for one in records.random} == {evaluation(s).name for s in shapes}
    table = MEMBER.write(records)[2]
    assert isinstance(table, Table)
    named = [str(row[0]) for row in table.rows if "random search" in str(row[0])]
    assert len(named) == 2
    assert other.records.random == ()
    last = MEMBER.write(other.records)[-1]
    assert isinstance(last, Paragraph) and "itself proposed at random" in last.text
