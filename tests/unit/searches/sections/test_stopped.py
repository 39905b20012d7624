"""What was stopped and what failed, counted by hand."""

from __future__ import annotations

from nas_theseus.pictures.page import Table
from nas_theseus.searches.records import Records
from nas_theseus.searches.sections.stopped import MEMBER


def test_rungs_and_reasons_are_counted(finished: Records) -> None:
    rungs, stopped, failed, blocks = (p for p in MEMBER.write(finished) if isinstance(p, Table))
    assert [list(row) for row in rungs.rows] == [
        ["converted", "12", "0", "0"], ["epoch_1", "12", "2", "10 k"],
    ]  # fmt: skip
    assert [row[1] for row in stopped.rows] == ["epoch_1", "epoch_1"]
    assert {row[3] for row in stopped.rows} == {"0.8000"}
    for row, one in zip(stopped.rows, finished.stopped, strict=True):
        assert row[2] == f"{one.evaluation.curve[1].value:.4f}"
    assert [list(row) for row in failed.rows] == [
        ["not finite & gone", "align", "2"], ["out of memory", "finetune", "1"],
    ]  # fmt: skip
    assert [list(row) for row in blocks.rows] == [["block b3", "diverged <badly>"]]
