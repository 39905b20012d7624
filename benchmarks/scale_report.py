"""Figures, table and plot of `benchmarks.scale`, from its cells."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.record import figure_table, write_record
from nas_theseus.storage.whole_files import write_bytes

DOCS = Path(__file__).resolve().parent.parent / "docs" / "evidence"
Row = Mapping[str, Any]
SAMPLERS: tuple[str, ...] = ("nsga2", "tpe", "theseus")
LENGTHS = (100, 1_000, 10_000)
NOT_RUN = "the cells it needs have not been run"
GOALS_MS = {"nsga2": 30, "tpe": 100}
GOAL_ASK_MS = 50
GOAL_BUSY = 0.95


def key(cell: Row) -> tuple[object, ...]:
    """What a cell is of; a later run of the same takes its place."""
    names = ("slots",) if cell["kind"] == "slots" else ("sampler", "trials")
    return tuple(cell[name] for name in names)


def _recorded(driver: Mapping[tuple[str, int], Row], trials: int) -> float | None:
    cell = driver.get(("nsga2", trials))
    return None if cell is None else float(cell["queue_ms"] + cell["deliver_ms"])


def _driver(cells: Sequence[Row]) -> dict[tuple[str, int], Row]:
    return {(c["sampler"], c["trials"]): c for c in cells if c["kind"] == "driver"}


def _slots(cells: Sequence[Row]) -> list[Row]:
    return sorted((c for c in cells if c["kind"] == "slots"), key=lambda c: int(c["slots"]))


def figures(cells: Sequence[Row]) -> tuple[dict[str, float | None], dict[str, str]]:
    """The figures, and notes: what they are, or why they are missing."""
    found: dict[str, float | None] = {}
    notes: dict[str, str] = {}
    driver = _driver(cells)
    for sampler in SAMPLERS:
        for trials in LENGTHS:
            cell, recorded = driver.get((sampler, trials)), _recorded(driver, trials)
            name = f"ms_per_trial_{sampler}_{trials}"
            # What records cost does not depend on who proposed.
            found[name] = (
                None
                if cell is None or recorded is None
                else float(cell["ask_ms"] + cell["tell_ms"] + recorded)
            )
            notes[name] = "ask + tell + queue + deliver, mean; MLflow is told of trial after trial"
    found["ms_ask_theseus_1000"] = driver.get(("theseus", 1_000), {}).get("ask_ms")
    notes["ms_ask_theseus_1000"] = f"one proposal, mean; goal: at most {GOAL_ASK_MS}"
    last, first = _recorded(driver, 10_000), _recorded(driver, 1_000)
    found["record_growth"] = last / first if last and first else None
    notes["record_growth"] = "queue + delivery to MLflow on SQLite, at 10,000 over at 1,000 trials"
    for trials in LENGTHS:
        found[f"stream_ms_{trials}"] = driver.get(("nsga2", trials), {}).get("stream_ms")
        notes[f"stream_ms_{trials}"] = "NSGA-II's trials as fast as they come, everything included"
    for trials in (100, 10_000):
        found[f"driver_mb_{trials}"] = driver.get(("nsga2", trials), {}).get("driver_mb")
        notes[f"driver_mb_{trials}"] = "resident memory of the driver's process"
    found["utilisation_min"] = min((c["utilisation"] for c in _slots(cells)), default=None)
    notes["utilisation_min"] = "worst over slot counts"
    return found, notes | {name: NOT_RUN for name, value in found.items() if value is None}


def driver_table(cells: Sequence[Row]) -> list[str]:
    """Milliseconds a trial by sampler and length."""
    lines = [
        "| trials | sampler | ask | tell | front | queue | deliver | ask + tell + record "
        "| stream |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    driver, sums = _driver(cells), figures(cells)[0]
    for trials in LENGTHS:
        for sampler in SAMPLERS:
            if cell := driver.get((sampler, trials)):
                own = sampler == "nsga2"
                parts = [f"{cell[f'{part}_ms']:.1f}" for part in ("ask", "tell", "front")] + [
                    f"{cell[f'{part}_ms']:.1f}" if own else "" for part in ("queue", "deliver")
                ]
                whole = sums[f"ms_per_trial_{sampler}_{trials}"]
                stream = f"{cell['stream_ms']:.1f}" if own else ""
                lines.append(
                    f"| {trials:,} | {sampler} | {' | '.join(parts)} "
                    f"| {'–' if whole is None else f'{whole:.1f}'} | {stream} |"
                )
    return lines


def slots_table(cells: Sequence[Row]) -> list[str]:
    """Utilisation by slots."""
    return [
        "| slots | processes | trials | busy |",
        "|---|---|---|---|",
        *(
            f"| {c['slots']} | {c['processes']} | {c['trials']} | {c['utilisation']:.3f} |"
            for c in _slots(cells)
        ),
    ]


def plot(cells: Sequence[Row]) -> Figure:
    """Milliseconds a trial over the search's length; utilisation over slots."""
    figure = Figure(figsize=(9, 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    costs, busy = figure.subplots(1, 2)
    driver, sums = _driver(cells), figures(cells)[0]
    for number, sampler in enumerate(SAMPLERS):
        lengths = [n for n in LENGTHS if sums[f"ms_per_trial_{sampler}_{n}"] is not None]
        costs.plot(
            lengths,
            [sums[f"ms_per_trial_{sampler}_{n}"] for n in lengths],
            "o-",
            color=f"C{number}",
            label=f"{sampler}: ask + tell + record",
        )
        costs.plot(
            lengths,
            [driver[sampler, n]["ask_ms"] for n in lengths],
            "o:",
            color=f"C{number}",
            label=f"{sampler}: ask",
        )
        if sampler in GOALS_MS:
            costs.plot([10_000], [GOALS_MS[sampler]], "_", color=f"C{number}", markersize=18)
    costs.set(xscale="log", yscale="log", xlim=(70, 14_000), ylim=(0.5, 500))
    costs.set_xlabel("trials in the study (bars: goals at 10,000)")
    costs.set_ylabel("driver, ms a trial")
    costs.legend(fontsize=6, loc="lower right")
    costs.grid(alpha=0.3)
    slots = _slots(cells)
    busy.plot([c["slots"] for c in slots], [100 * c["utilisation"] for c in slots], "o-")
    busy.axhline(100 * GOAL_BUSY, linestyle="--", color="gray", label="goal")
    busy.set_xscale("log", base=2)
    busy.set(xlim=(1.5, 90), ylim=(0, 102))
    busy.set_xlabel("slots")
    busy.set_ylabel("busy, %")
    busy.legend(fontsize=7)
    busy.grid(alpha=0.3)
    return figure


def report(cells: Sequence[Row]) -> None:
    """Write results/scale.json and docs/evidence/scaling-evidence.md with its plot."""
    found, notes = figures(cells)
    busiest = max(cell["load"] for cell in cells)
    # A driver with its writer loads one core and a bit, 64 processes that start more than two.
    notes["load"] = f"load average of the machine's {os.cpu_count()} cores, at most {busiest:.1f}"
    notes["cells"] = "each of its latest run, with the commit that it ran at"
    write_record("scale", found, cells, [0], notes)
    plot(cells).savefig(DOCS / "scaling.png")
    text = [
        "# Scaling, measured",
        "",
        "Written by `python -m benchmarks.scale`, which says what is measured; every cell is in",
        "`benchmarks/results/scale.json`, what it means in [scaling](../guides/scaling.md).",
        "",
        *figure_table(found, notes),
        "",
        "![milliseconds a trial, and utilisation](scaling.png)",
        "",
        "## The driver, wall milliseconds a trial",
        "",
        "NSGA-II is recorded as in a search; of each trial MLflow is told before the next. The",
        "others propose and are told on a copy of its study, so their sum takes its records.",
        "Stream: trials that end as fast as they are proposed, everything included, MLflow being",
        "told beside.",
        "",
        *driver_table(cells),
        "",
        "## Slots",
        "",
        *slots_table(cells),
        "",
    ]
    write_bytes(DOCS / "scaling-evidence.md", "\n".join(text).encode())
