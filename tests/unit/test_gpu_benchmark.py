"""Figures of the benchmark of a shared GPU: none where nothing was measured."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.gpu import figures_of


def cell(at_once: int, rate: float, front: list[str], precision: str = "mixed") -> dict[str, Any]:
    return {
        "at_once": at_once, "precision": precision, "evaluations_an_hour": rate,
        "utilisation": 0.5, "peak_memory_bytes": 1 << 30, "front": front,
    }  # fmt: skip


def test_without_cells_every_figure_is_there_and_has_no_value() -> None:
    found = figures_of([])
    assert {"evaluations_an_hour_4", "utilisation_1", "front_shared_with_1_2"} <= found.keys()
    assert set(found.values()) == {None}


def test_figures_are_those_of_the_cells() -> None:
    cells = [
        cell(1, 60, ["a", "b"]), cell(2, 90, ["a", "c"]), cell(4, 100, ["a", "b"]),
        cell(1, 40, ["b"], "float32"),
    ]  # fmt: skip
    found = figures_of(cells)
    assert found["evaluations_an_hour_2"] == 90
    assert found["front_shared_with_1_2"] == pytest.approx(1 / 3)
    assert found["front_shared_with_1_4"] == 1
    assert found["mixed_over_float32"] == pytest.approx(1.5)
    assert found["front_shared_with_float32"] == 0.5
    assert found.keys() == figures_of([]).keys()
