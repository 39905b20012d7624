"""Tables in the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nas_theseus.cli.tables import front_table

ROW = {
    "architecture": "f30eba841193", "pairing": "0|1", "blocks": "keep|linear", "val_accuracy": 0.98,
    "latency_ms_p10": 0.21, "latency_ms_p90": 0.43, "macs": 378176, "params": 16890,
    "latency_ms": 0.25, "peak_memory_bytes": 80904, "test_accuracy": 0.97,
    "train_macs_spent": 0, "seconds": 3.4, "run_id": "a2a5",
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 100, 140])
def test_every_figure_of_the_front_is_shown_in_a_terminal_of_any_width(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    console.print(front_table([ROW], "front", width))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for figure in ("f30eba841193", "0.9800", "378 k", "16.9 k", "0.2500", "80.9 k", "0.9700"):
        assert figure in shown, shown
    assert "0.43" not in shown and "a2a5" not in shown
    assert max(map(len, shown.splitlines())) <= width
    assert ("keep|linear" in shown) == (width > 80)
    assert ("latency_ms" in shown) == (width == 140)


def test_names_are_whole_where_there_is_room() -> None:
    console = Console(file=io.StringIO(), width=80)
    row = {key: ROW[key] for key in ("architecture", "blocks", "val_accuracy", "macs", "params")}
    console.print(front_table([row], "front", 80))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "val_accuracy" in shown and "keep|linear" in shown
