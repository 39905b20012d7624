"""Figures of the benchmarks of long searches: what they count, and what they leave out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sampler_window
from benchmarks.scale_driver import Clock
from benchmarks.scale_report import driver_table, figures, plot, slots_table
from benchmarks.scale_slots import utilisation


def driver(sampler: str, trials: int, ask: float, **parts: float) -> dict[str, Any]:
    told = {f"{part}_ms": 0.0 for part in ("tell", "front", "queue", "deliver")}
    own = {"stream_ms": 50.0, "driver_mb": 100.0} if sampler == "nsga2" else {}
    return {
        "kind": "driver", "sampler": sampler, "trials": trials, "ask_ms": ask, "load": 1.0,
        **told, **own, **parts,
    }  # fmt: skip


def test_nested_parts_are_not_counted_twice() -> None:
    clock = Clock()
    with clock.part("front"):
        clock.timed("tell", time.sleep)(0.02)
    told = clock.take(2)
    assert told["tell_ms"] >= 10 > 5 > told["front_ms"]
    assert set(clock.take(1).values()) == {0.0}


def test_slots_are_busy_between_ramp_up_and_the_last_start() -> None:
    # Two processes; the second begins at 5, from when on the first rests for 1 of 10 seconds.
    trials = [(1, 0.0, 9.0), (2, 5.0, 15.0), (1, 10.0, 20.0), (2, 15.0, 25.0)]
    assert utilisation(trials, 2) == pytest.approx(19 / 20)
    # A slot that never had a process is idle.
    assert utilisation(trials, 4) == pytest.approx(19 / 40)
    with pytest.raises(ValueError, match="run more rounds"):
        utilisation(trials[:2], 2)


def test_a_sampler_s_sum_takes_the_records_of_the_search() -> None:
    cells = [
        driver("nsga2", 1_000, 5, tell_ms=1, queue_ms=2, deliver_ms=10, front_ms=99),
        driver("nsga2", 10_000, 6, tell_ms=1, queue_ms=3, deliver_ms=15),
        driver("tpe", 10_000, 40, tell_ms=2),
        driver("theseus", 1_000, 45, tell_ms=2),
        {"kind": "slots", "slots": 4, "utilisation": 0.9, "processes": 4, "trials": 8, "load": 0},
        {"kind": "slots", "slots": 2, "utilisation": 1.0, "processes": 2, "trials": 4, "load": 0},
    ]
    found, notes = figures(cells)
    assert found["ms_per_trial_nsga2_1000"] == 18
    assert found["ms_per_trial_nsga2_10000"] == 25
    assert found["ms_per_trial_tpe_10000"] == 60
    assert found["ms_ask_theseus_1000"] == 45
    assert found["record_growth"] == 1.5
    assert found["stream_ms_10000"] == 50
    assert found["utilisation_min"] == 0.9
    assert found["ms_per_trial_tpe_100"] is None and "not been run" in notes["ms_per_trial_tpe_100"]
    assert "| 10,000 | tpe | 40.0 | 2.0 | 0.0 |  |  | 60.0 |  |" in driver_table(cells)
    assert slots_table(cells)[2:] == ["| 2 | 2 | 4 | 1.000 |", "| 4 | 4 | 8 | 0.900 |"]


def test_without_cells_every_figure_is_there_and_says_why() -> None:
    found, notes = figures([])
    assert {"record_growth", "utilisation_min", "driver_mb_10000"} <= found.keys()
    assert set(found.values()) == {None} and found.keys() <= notes.keys()


@pytest.mark.parametrize("cells", [[], [driver("nsga2", 100, 5.0)], [driver("tpe", 100, 5.0)]])
def test_the_plot_is_drawn_of_what_is_there(cells: list[dict[str, Any]], tmp_path: Path) -> None:
    plot(cells).savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_a_window_s_gain_is_over_none_in_the_same_world() -> None:
    def row(world: int, window: int | None, volume: float) -> dict[str, Any]:
        return {
            "sampler": "tpe", "world": world, "window": window, "hypervolume": volume,
            "seconds_a_proposal": 0.05,
        }  # fmt: skip

    rows = [row(0, None, 0.9), row(0, 100, 0.89), row(1, None, 0.5), row(1, 100, 0.51)]
    found, notes = sampler_window.figures(rows)
    assert found["tpe_100_gain"] == pytest.approx(0.0)
    assert notes["tpe_100_gain"] == "± 0.0100 (standard error of 2 worlds)"
    assert found["tpe_whole_hypervolume"] == pytest.approx(0.7)
    assert "tpe_whole_gain" not in found
