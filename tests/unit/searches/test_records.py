"""What a search's folder holds: order, kinds, guide, and damaged files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nas_theseus.cli.app import make_app
from nas_theseus.errors import StorageError
from nas_theseus.searches.figures import left_out
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_drawing import figure_of_front
from nas_theseus.searches.front_files import count_at_chance
from nas_theseus.searches.records import Records
from nas_theseus.values.goals import Constraint
from tests.unit.searches.recorded import GOALS, PARTS, REFERENCE, RUNGS, Recorded, evaluation


def test_results_are_in_the_order_in_which_they_were_saved(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    recorded.finish()
    records = recorded.records
    times = [records.elapsed(one) for one in records.outcomes]
    assert times == sorted(times) and times[0] == 180
    assert [records.elapsed(block) for block in records.blocks] == [60, 120, 360]
    assert (len(records.evaluations), len(records.stopped), len(records.failures)) == (10, 2, 3)
    assert records.parts == PARTS and records.rungs == RUNGS
    assert records.quality == GOALS[0] and records.costs == GOALS[1:]
    assert records.reference == REFERENCE and records.guide["test_accuracy"] == 0.94


def test_limits_leave_evaluations_out_of_the_front(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    wide = evaluation(((1, 4), (2, 9)))
    assert wide.value("macs") > 1100
    recorded.save(wide)
    assert recorded.records.evaluations == (wide,)
    assert recorded.records.feasible == recorded.records.members == ()


def test_a_search_that_was_continued_has_not_finished(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    recorded.finish()
    assert recorded.records.state.startswith("This search has finished")
    recorded.save(evaluation(((1, 1), (1, 2), (1, 4))))
    assert "continued, and has not finished again. So far 11" in recorded.records.state


def test_a_damaged_summary_or_basis_counts_as_none(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    recorded.finish()
    (recorded.folder.front / "front.json").write_text("[")
    recorded.folder.basis_file.write_text('{"guide": {}}')
    records = recorded.records
    assert records.basis is None and records.guide == {}
    worst = max(one.value("macs") for one in records.feasible)
    assert records.reference["macs"] == worst
    recorded.folder.settings_file.unlink()
    with pytest.raises(StorageError, match="no search 'small'"):
        Records.read(SearchFolder(tmp_path, "small"))


def test_networks_no_better_than_chance_are_left_out_and_counted(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    recorded.finish()
    begun = recorded.records.begun
    least = sorted({one.value("val_accuracy") for one in recorded.records.evaluations})[1]
    floor = Constraint("val_accuracy", ">=", least, chance=True)
    replace(begun, constraints=(*begun.constraints, floor)).write(recorded.folder)
    records = recorded.records
    low = {one.name for one in records.evaluations if one.value("val_accuracy") <= least}
    assert records.at_chance == count_at_chance(recorded.folder) == len(low) > 1
    assert not low & {one.name for one in records.feasible}
    assert not low & {member.evaluation.name for member in records.members}
    said = f"{len(low)} networks no better than chance are left out of the front"
    assert records.state.endswith(f"failed. {said}.")
    figure = figure_of_front(recorded.folder, records.members)
    assert figure.layout.title.text == f"small ({len(low)} no better than chance not shown)"
    assert sum(len(trace.x) for trace in figure.data[:2]) == len(records.evaluations) - len(low)
    given = ["front", "small", "--storage", str(tmp_path)]
    assert said in CliRunner().invoke(make_app(), given, env={"COLUMNS": "200"}).output


def test_one_network_is_left_out_in_the_singular() -> None:
    assert left_out(1) == "1 network no better than chance is left out of the front"
