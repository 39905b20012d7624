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
GOALS_MS = {"nsga2": 20, "tpe": 100, "theseus": 100}
GOAL_MB = 1_200
GOAL_PAGES_S = 2
GOAL_ASK_MS = 50
GOAL_BUSY = 0.95


def key(cell: Row) -> tuple[object, ...]:
    """What a cell is of; a later run of the same takes its place."""
    names = {
        "slots": ("slots",),
        "driver": ("sampler", "trials"),
        "services": ("kind", "trials"),
        "beside": ("kind",),
        "wide": ("kind", "sampler"),
        "front": ("kind",),
    }[cell["kind"]]
    return tuple(cell[name] for name in names)


def _recorded(driver: Mapping[tuple[str, int], Row], trials: int) -> float | None:
    cell = driver.get(("nsga2", trials))
    return None if cell is None else float(cell["queue_ms"] + cell["deliver_ms"])


def _of_kind(cells: Sequence[Row], kind: str) -> list[Row]:
    return [cell for cell in cells if cell["kind"] == kind]


def _services(cells: Sequence[Row]) -> dict[int, Row]:
    return {cell["trials"]: cell for cell in _of_kind(cells, "services")}


def _sum(cell: Row, *parts: str) -> float:
    return float(sum(cell[f"{part}_ms"] for part in parts))


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
    notes["driver_mb_10000"] += f"; goal: at most {GOAL_MB:,}"
    found["utilisation_min"] = min((c["utilisation"] for c in _slots(cells)), default=None)
    notes["utilisation_min"] = "worst over slot counts"
    for more in (_service_figures, _load_figures):
        for name, (value, note) in more(cells).items():
            found[name], notes[name] = value, note
    return found, notes | {name: NOT_RUN for name, value in found.items() if value is None}


_Figures = dict[str, tuple[float | None, str]]


def _service_figures(cells: Sequence[Row]) -> _Figures:
    """Of a study in PostgreSQL and MLflow's server; growth between the longest that were run."""
    services = _services(cells)
    whole = {
        trials: _sum(cell, "ask", "tell", "queue", "deliver") for trials, cell in services.items()
    }
    pairs = [(10_000, 1_000), (1_000, 100)]
    last, first = next((p for p in pairs if p[0] in services and p[1] in services), pairs[-1])
    growth = None
    if last in services and first in services:
        recorded = [_sum(services[trials], "queue", "deliver") for trials in (last, first)]
        growth = recorded[0] / recorded[1]
    return {
        "ms_per_trial_postgresql_1000": (
            whole.get(1_000),
            "NSGA-II, the study in PostgreSQL, MLflow behind its server: ask + tell + queue + "
            "deliver",
        ),
        "record_growth_server": (
            growth,
            f"queue + delivery to MLflow's server, at {last:,} over at {first:,} trials",
        ),
    }


def _load_figures(cells: Sequence[Row]) -> _Figures:
    """Of searches beside each other, of a wide space and of a large front."""
    beside = next(iter(_of_kind(cells, "beside")), {})
    front = next(iter(_of_kind(cells, "front")), {})
    count = beside.get("searches", 100)
    found: _Figures = {
        f"beside_{name}": (beside.get(name), f"{count} searches beside each other: {what}")
        for name, what in {
            "lost": "results without a run in MLflow",
            "doubled": "runs that are there twice or belong to nothing",
            "left_running": "runs that did not end",
            "library_errors": "entries of the library that do not verify, and leftovers",
            "seconds": "until all had ended",
        }.items()
    }
    asked = [ms for cell in (beside, front) if cell for ms in cell["queries_ms"].values()]
    found["mlflow_pages_s"] = (
        max(asked) / 1e3 if asked else None,
        "slowest query of MLflow's pages after these searches, over HTTP; goal: at most "
        f"{GOAL_PAGES_S}",
    )
    wide = {cell["sampler"]: cell for cell in _of_kind(cells, "wide")}
    for sampler in SAMPLERS:
        found[f"ms_ask_wide_{sampler}"] = (
            wide.get(sampler, {}).get("ask_ms"),
            "one proposal at 100 trials in a space of 60 parts with 30 blocks each",
        )
    found["front_members"] = (front.get("members"), "of the large front")
    found["ms_per_trial_large_front"] = (
        _sum(front, "front", "queue", "deliver") if front else None,
        "front + queue + deliver of a trial there, MLflow behind its server",
    )
    return found


def services_table(cells: Sequence[Row]) -> list[str]:
    """Milliseconds a trial with the study in PostgreSQL and MLflow behind its server."""
    return [
        "| trials | ask | tell | front | queue | deliver | ask + tell + record | stream |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {trials:,} | "
            + " | ".join(
                f"{cell[f'{part}_ms']:.1f}" for part in ("ask", "tell", "front", "queue", "deliver")
            )
            + f" | {_sum(cell, 'ask', 'tell', 'queue', 'deliver'):.1f} | {cell['stream_ms']:.1f} |"
            for trials, cell in sorted(_services(cells).items())
        ),
    ]


def pages_table(cells: Sequence[Row]) -> list[str]:
    """Milliseconds of the queries of MLflow's pages."""
    shown = [
        (name, cell["queries_ms"])
        for kind, name in (("beside", "searches beside each other"), ("front", "large front"))
        for cell in _of_kind(cells, kind)
    ]
    names = list(shown[0][1]) if shown else []
    return [
        f"| after | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
        *(
            f"| {name} | {' | '.join(f'{asked[query]:.0f}' for query in names)} |"
            for name, asked in shown
        ),
    ]


def wide_table(cells: Sequence[Row]) -> list[str]:
    """Milliseconds a trial in a wide space."""
    return [
        "| sampler | parts | genes | ask | tell | front | queue | deliver | refused by MLflow |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {cell['sampler']} | {cell['parts']} | {cell['genes']} | "
            + " | ".join(
                f"{cell[f'{part}_ms']:.1f}" for part in ("ask", "tell", "front", "queue", "deliver")
            )
            + f" | {cell['refused']} |"
            for cell in _of_kind(cells, "wide")
        ),
    ]


def _load_text(cells: Sequence[Row]) -> list[str]:
    """Sections on what was measured beside the driver and the slots; none without cells."""
    text: list[str] = []
    if _services(cells):
        text += [
            "## A study in PostgreSQL, MLflow behind its server",
            "",
            "NSGA-II; both servers on the same machine, MLflow's runs in PostgreSQL too.",
            "",
            *services_table(cells),
            "",
        ]
    for cell in _of_kind(cells, "beside"):
        text += [
            "## Searches beside each other",
            "",
            f"{cell['searches']} searches of {cell['trials']} trials, open at once in "
            f"{cell['processes']} processes, with one",
            f"MLflow server and one library: {cell['seconds']:.0f} s. Lost {cell['lost']}, doubled "
            f"{cell['doubled']}, left running {cell['left_running']}, marks of",
            f"fronts that differ from the files {cell['marks_that_differ']}; {cell['blocks']:,} "
            f"blocks asked of the library, {cell['library_blocks']} in it, "
            f"{cell['library_errors']} errors.",
            f"Meanwhile the newest runs took at most {cell['while_running_ms']:.0f} ms.",
            "",
        ]
    if _of_kind(cells, "beside") or _of_kind(cells, "front"):
        text += [
            "Queries of MLflow's pages afterwards, over HTTP, median milliseconds: the newest 100",
            "runs; 100 runs of one search by its metric; all of its front by MACs; members of all",
            "fronts; a search's own run; the chart of its hypervolume.",
            "",
            *pages_table(cells),
            "",
        ]
    for cell in _of_kind(cells, "front"):
        took = ", ".join(
            f"{name.replace('_', ' ')} {value:.2f} s"
            for name, value in cell["seconds"].items()
            if name != "report_mb"
        )
        text += [
            f"## A front of {cell['members']} members",
            "",
            f"A trial takes {cell['front_ms']:.1f} ms for the front and its hypervolume, "
            f"{cell['queue_ms']:.1f} ms to queue,",
            f"{cell['deliver_ms']:.1f} ms to deliver to MLflow's server. At the end: {took}.",
            f"The report has {cell['seconds']['report_mb']:.1f} MB. The networks were neither "
            "tested nor exported.",
            "",
        ]
    if _of_kind(cells, "wide"):
        text += ["## A wide space, wall milliseconds a trial", "", *wide_table(cells), ""]
    return text


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
        *_load_text(cells),
    ]
    write_bytes(DOCS / "scaling-evidence.md", "\n".join(text).encode())
