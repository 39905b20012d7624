"""Tables in the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nas_theseus.cli.tables import figure, front_table, predicted_table
from nas_theseus.searches.budget import Answer, Prediction
from nas_theseus.values.architecture import Architecture, BlockChoice, Span

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
    for cell in ("f30eba841193", "0.9800", "378 k", "16.9 k", "0.2500", "80.9 k", "0.9700"):
        assert cell in shown, shown
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


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("macs", 378176, "378 k"),
        ("energy_mj", 0.35, "0.3500"),
        ("energy_mj", 0.0000125, "1.25e-05"),
        ("energy_mj", 0.0, "0.0000"),
        ("energy_pj", 123456.7, "123 k"),
        ("seconds", 3.42, "3.4"),
        ("latency_ms", None, "-"),
        ("predicted_val_accuracy", "0.9 ± 0.1", "0.9 ± 0.1"),
    ],
)
def test_figures_are_readable_whatever_their_unit(name: str, value: object, shown: str) -> None:
    assert figure(name, value) == shown


def test_predictions_show_every_additive_cost() -> None:
    one = Architecture((BlockChoice(Span(0, 1), "keep"),))
    costs = {"macs": 1234, "params": 56, "energy_mj": 0.25}
    found = Answer("val_accuracy", (), (Prediction(one, 0.9, 0.01, costs, 2, 1),), 0.0)
    console = Console(file=io.StringIO(), width=140)
    console.print(predicted_table(found, "predicted", 140))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text in ("energy_mj", "0.2500", "1.23 k", "56", "0.9000 ± 0.0100", "keep"):
        assert text in shown
