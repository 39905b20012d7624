"""What a search's folder holds: order, kinds, guide, and damaged files."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas_theseus.errors import StorageError
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.records import Records
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
