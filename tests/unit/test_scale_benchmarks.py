"""Figures of the benchmarks of long searches: what they count, and what they leave out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sampler_window
from benchmarks.scale_beside import compare, name_of
from benchmarks.scale_driver import Clock
from benchmarks.scale_report import (
    driver_table,
    figures,
    key,
    pages_table,
    plot,
    services_table,
    slots_table,
    wide_table,
)
from benchmarks.scale_slots import utilisation
from benchmarks.scale_spaces import BLOCKS, wide_space
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import Cost, Evaluation


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


def load_cells() -> list[dict[str, Any]]:
    parts = {f"{part}_ms": 1.0 for part in ("ask", "tell", "front", "queue", "deliver")}
    asked = {"newest": 100.0, "front": 1_500.0}
    none = dict.fromkeys(("lost", "doubled", "left_running", "library_errors"), 0)
    return [
        {"kind": "services", "trials": 100, **parts, "stream_ms": 9.0},
        {"kind": "services", "trials": 1_000, **parts, "deliver_ms": 3.0, "stream_ms": 9.0},
        {"kind": "wide", "sampler": "tpe", "parts": 60, "genes": 7, "refused": 0, **parts},
        {
            "kind": "beside",
            "searches": 4,
            **none,
            "doubled": 1,
            "seconds": 5.0,
            "queries_ms": asked,
        },
        {"kind": "front", "members": 500, "queries_ms": {"newest": 2.0, "front": 3.0}, **parts},
    ]


def test_figures_of_services_and_of_searches_under_load() -> None:
    cells = load_cells()
    found, notes = figures(cells)
    assert found["ms_per_trial_postgresql_1000"] == 6
    assert found["record_growth_server"] == 2 and "at 1,000 over" in notes["record_growth_server"]
    assert (found["beside_lost"], found["beside_doubled"]) == (0, 1)
    assert found["mlflow_pages_s"] == 1.5
    assert found["ms_ask_wide_tpe"] == 1 and found["ms_ask_wide_theseus"] is None
    assert (found["front_members"], found["ms_per_trial_large_front"]) == (500, 3)
    assert len({key(cell) for cell in cells}) == len(cells)
    longer = [*cells, {**cells[1], "trials": 10_000, "deliver_ms": 7.0}]
    found, notes = figures(longer)
    assert found["record_growth_server"] == 2 and "at 10,000 over" in notes["record_growth_server"]
    assert "| 1,000 | 1.0 | 1.0 | 1.0 | 1.0 | 3.0 | 6.0 | 9.0 |" in services_table(cells)
    assert pages_table(cells)[2:] == [
        "| searches beside each other | 100 | 1500 |",
        "| large front | 2 | 3 |",
    ]
    assert wide_table(cells)[2:] == ["| tpe | 60 | 7 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 0 |"]


def test_each_part_of_a_wide_space_has_its_blocks() -> None:
    space = wide_space(3)
    counts = [len(list(space.choices(span, share))) for span, share in space.fitting]
    assert sorted(counts) == [1, BLOCKS, BLOCKS, BLOCKS]  # the head is kept


Runs = list[dict[str, Any]]
CHANGES: dict[str, tuple[Callable[[Runs], Any], dict[str, int]]] = {
    "nothing": (lambda runs: None, {}),
    "a run is gone": (lambda runs: runs.pop(1), {"lost": 1, "marks_that_differ": 1}),
    "a run is doubled": (lambda runs: runs.append(dict(runs[2])), {"doubled": 1}),
    "a run goes on": (lambda runs: runs[0].update(status="RUNNING"), {"left_running": 1}),
    "the search has another name": (
        lambda runs: runs[0]["tags"].update({"theseus.search": "another"}),
        {"lost": 1, "doubled": 1},
    ),
    "a member has no mark": (
        lambda runs: runs[1]["tags"].update({"theseus.front": "false"}),
        {"marks_that_differ": 1},
    ),
}


@pytest.mark.parametrize("what", list(CHANGES))
def test_runs_are_compared_with_files(tmp_path: Path, what: str) -> None:
    change, wrong = CHANGES[what]
    folder = SearchFolder(tmp_path, name_of(0))
    folder.create()
    tags = {"theseus.search": name_of(0)}
    runs: Runs = [{"status": "FINISHED", "tags": {**tags, "theseus.kind": "search"}}]
    for number, quality in enumerate((0.8, 0.7)):  # the second is worse and costs more
        one = Architecture((BlockChoice(Span(0, number + 1), "linear"),))
        cost = Cost({"macs": 10 * (number + 1), "params": 1})
        folder.write_outcome(Evaluation(one, "r", 0, {"val_accuracy": quality}, cost, 1, 1.0))
        mine = {"theseus.architecture": one.id, "theseus.front": str(not number).lower()}
        runs.append({"status": "FINISHED", "tags": {**tags, **mine}})
    change(runs)
    none = {"lost": 0, "doubled": 0, "left_running": 0, "marks_that_differ": 0}
    assert compare(tmp_path, [0], runs, wide_space(2).goals) == {**none, **wrong}


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
