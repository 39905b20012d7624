"""Figures and table of the soak, from its cells."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, write_record

PAGE = Path(__file__).resolve().parent.parent / "docs" / "evidence" / "reliability.md"
BEGIN, END = "<!-- soak -->", "<!-- end of soak -->"
Row = Mapping[str, Any]
# How drivers were run, as the table says it.
KINDS = {
    "forked": "without Ray",
    "preloaded": "without Ray, clock or disk disturbed",
    "ray": "with Ray on one machine",
    "cluster": "on a Ray cluster of several nodes",
}
# Figures by the column of a row that they sum; all are to be 0.
BROKEN = {
    "lost": "lost",
    "doubled": "doubled",
    "left_running": "left_running",
    "fronts_that_differ": "front_differs",
    "results_that_differ": "results_differ",
    "library_errors": "library_errors",
    "studies_that_differ": "study_differs",
    "trackers_that_differ": "tracker_differs",
    "unclear_ends": "unclear_ends",
    "searches_that_hang": "hangs",
    "processes_left": "processes_left",
}
COUNTED = {"kills": "kills", "files_damaged": "damaged", "damage_named": "named"}
# Of other programs, which write them themselves.
OTHERS = {
    "soak_points.json": ("write_points_killed",),
    "soak_fuzz.json": ("inputs_fuzzed", "inputs_not_refused_cleanly"),
}


def latest(rows: Sequence[Row]) -> list[Row]:
    """The last row of each cell."""
    return list({(row["seed"], row["cell"]): row for row in rows}.values())


def broken(row: Row) -> dict[str, int]:
    """What a cell found, without what is 0."""
    found = {name: row.get(column, 0) for name, column in BROKEN.items()}
    return {name: count for name, count in found.items() if count}


def told(row: Row) -> str:
    """A cell in one line, or more if it found something."""
    head = f"cell {row['seed']}/{row['cell']}"
    if "kind" not in row:
        return f"{head}: {row['error']}"
    what = " ".join(str(row[name]) for name in ("kind", "space", "sampler", "library", "study"))
    said = f"{head} {what} {row['tracker']}: {row['kills']} kills in {row['seconds']:.0f} s"
    if wrong := broken(row):
        said += f"; {wrong} {row['messages']}"
    return said + (f"; error: {row['error']}" if row["error"] else "")


def figures(rows: Sequence[Row]) -> dict[str, float | int]:
    """Sums over the latest row of each cell."""
    whole = [row for row in latest(rows) if "kind" in row]
    found: dict[str, float | int] = {
        "cells": len(whole),
        "hours": sum(row["seconds"] for row in whole) / 3600,
        "cells_with_errors": sum(bool(row["error"]) for row in latest(rows)),
    }
    for name, column in (COUNTED | BROKEN).items():
        found[name] = sum(row[column] for row in whole)
    for file, names in OTHERS.items():
        path = RESULTS / file
        if path.exists():
            others = json.loads(path.read_text())["figures"]
            found |= {name: others[name] for name in names if name in others}
    return found


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of Markdown: what was run and found, and how often each fault happened."""
    whole = [row for row in latest(rows) if "kind" in row]
    columns = ["lost", "doubled", "left running", "fronts that differ", "other"]
    heads = ["driver", "searches", "hours", "launches", "kills", "finished by then", *columns]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for kind, name in KINDS.items():
        own = [row for row in whole if row["kind"] == kind]
        if own:
            sums = {c: sum(row[c] for row in own) for c in ("launches", "kills", "finished")}
            found = Counter[str]()
            for row in own:
                found.update(broken(row))
            first = [found[c.replace(" ", "_")] for c in columns[:-1]]
            cells = [name, len(own), f"{sum(row['seconds'] for row in own) / 3600:.2f}",
                     *sums.values(), *first, found.total() - sum(first)]  # fmt: skip
            lines.append(f"| {' | '.join(map(str, cells))} |")
    times = Counter[str]()
    for row in whole:
        times.update(row["happened"])
    lines += ["", "| fault | times |", "|---|---|"]
    lines += [f"| {name} | {count} |" for name, count in sorted(times.items())]
    return lines


def report(rows: Sequence[Row]) -> None:
    """Write results/soak.json, and the table on the page about reliability."""
    if not rows:
        return
    notes = {
        "cells": "in results/soak_cells.jsonl; the last row of each cell counts",
        "hours": "wall time of the cells, three or four of which ran at once on a busy machine",
        "damage_named": "damaged files that a message named, and whose remedy helped; the others "
        "were made again, or nothing depended on them",
    }
    seeds = sorted({row["seed"] for row in rows})
    packages = ("torch", "ray", "optuna", "mlflow", "moto", "psycopg")
    write_record("soak", figures(rows), [], seeds, notes, packages)
    if BEGIN in (text := PAGE.read_text()):
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text("\n".join([before + BEGIN, *table(rows), END]) + after)
