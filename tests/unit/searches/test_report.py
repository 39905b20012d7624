"""What a running search says of itself."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nas_theseus.searches import report
from nas_theseus.searches.report import LiveReport, rungs_line, training_line
from nas_theseus.searches.status import BlockCounts, Progress, Status


def test_a_search_says_what_its_rungs_saved_and_how_well_they_predicted() -> None:
    taus = {"converted": 0.456, "epoch_1": 1.0}
    now = Progress(stopped=4, macs_saved=1_234_567, correlations=taus, compared=9)
    assert rungs_line(Status("a", 20, now, {})) == (
        "rungs: 4 stopped, 1.23 M MACs saved; Kendall's tau with final quality: converted 0.46, "
        "epoch_1 1.00 (9 architectures)"
    )
    few = Status("a", 20, Progress(compared=3), {})
    assert rungs_line(few).endswith("too few candidates finished for Kendall's tau (3)")


def test_training_counts_candidates_and_blocks() -> None:
    blocks = BlockCounts(2, 1, 0, 0, 3_000_000, 1.5, 1_000_000, 0.5)
    status = Status("a", 20, Progress(train_macs=1_000_000), {}, blocks=blocks)
    assert training_line(status) == (
        "training: 4 M MACs in all; blocks: 2 converted (3 M MACs, 1.5 s), 1 reused (1 M MACs, "
        "0.5 s saved), 0 failed"
    )
    without = Status("a", 20, Progress(train_macs=5), {})
    assert training_line(without) == "training: 5 MACs in all; no library used"


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_in_a_terminal_and_a_file(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "LINE_EVERY_S", 0.0)
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200)
    shown = LiveReport(console)
    now = Progress(done=3, front=("abcdef", "123456"), hypervolume=0.25, best={"macs": 5.0})
    status = Status("a", 20, now, {"abcdef01": "finetune"}, seconds_left=8.0)
    shown.show(status)
    shown.close(status)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for said in ("3 of 20 done, 1 running", "front 2, hypervolume 0.2500", "about 8 s left"):
        assert said in text
    assert ("running: abcdef finetune" in text) == terminal
