"""What it costs that samplers see the front and a part of the trials only (`optuna/window.py`).

    python -m benchmarks.sampler_window [--tpe-worlds 10] [--theseus-worlds 5] [--jobs 2]

The worlds are those of `benchmarks.sampler`; each sampler searches each of them with its window and
with none. Hypervolume is of the true quality of the nets that the told quality puts on the front,
as share of that of the world's exact front without pairs. A search is a cell, kept in
results/sampler_window_cells.jsonl as it ends; delete a line to run it again.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmarks.cells import append, finished, run_cells
from benchmarks.record import RESULTS, commit, write_record
from benchmarks.sampler import SPACE, World, search
from nas_theseus.costs.table import CostTable
from nas_theseus.services.optuna.study import Study
from nas_theseus.services.optuna.window import Thinned
from nas_theseus.space.load import load_space

CELLS = RESULTS / "sampler_window_cells.jsonl"
# What the product shows its samplers (services/optuna/samplers).
TPE_WINDOW, THESEUS_WINDOW = 2000, 400
Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One search; `window` is None where the sampler sees all."""

    sampler: str
    world: int
    proposals: int
    window: int | None


def run_cell(cell: Cell) -> Row:
    """Search a world."""

    def see(study: Study) -> None:
        study._window = None if cell.window is None else Thinned(cell.window)

    space = load_space(SPACE)
    costs = CostTable(space)
    world = World(space, costs, cell.world)
    told, seconds = search(space, costs, world, cell.sampler, cell.proposals, see)
    return {
        **asdict(cell),
        "evaluated": len(told),
        "seconds_a_proposal": seconds,
        "hypervolume": world.found(told) / world.volume(world.known()),
        "load": os.getloadavg()[0],
        "commit": commit(),
    }


def keep(cell: Cell, row: Row) -> str:
    """Keep a row, and say it."""
    append(CELLS, row)
    return f"{row['hypervolume']:.4f}, {1e3 * row['seconds_a_proposal']:.0f} ms a proposal"


def figures(rows: Sequence[Row]) -> tuple[dict[str, float | None], dict[str, str]]:
    """Means, and what a window gains over none in the same world, with its standard error."""
    found: dict[str, float | None] = {}
    notes = {"hypervolume": "share of that of the world's exact front without pairs, mean"}
    by = {(r["sampler"], r["window"], r["world"]): r for r in rows}
    for sampler, window in dict.fromkeys((r["sampler"], r["window"]) for r in rows):
        own = [r for r in rows if (r["sampler"], r["window"]) == (sampler, window)]
        name = f"{sampler}_{'whole' if window is None else window}"
        found[f"{name}_hypervolume"] = statistics.fmean(r["hypervolume"] for r in own)
        seconds = statistics.fmean(r["seconds_a_proposal"] for r in own)
        found[f"{name}_ms_a_proposal"] = 1e3 * seconds
        gains = [
            r["hypervolume"] - by[sampler, None, r["world"]]["hypervolume"]
            for r in own
            if window is not None and (sampler, None, r["world"]) in by
        ]
        if len(gains) > 1:
            error = statistics.stdev(gains) / math.sqrt(len(gains))
            found[f"{name}_gain"] = statistics.fmean(gains)
            notes[f"{name}_gain"] = f"± {error:.4f} (standard error of {len(gains)} worlds)"
    return found, notes


def main() -> None:
    """Run the cells that are missing and write results/sampler_window.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tpe-worlds", type=int, default=10)
    parser.add_argument("--theseus-worlds", type=int, default=5)
    parser.add_argument("--tpe", type=int, default=4000, help="proposals")
    parser.add_argument("--theseus", type=int, default=600, help="proposals")
    parser.add_argument("--tpe-window", type=int, default=TPE_WINDOW)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    plan: tuple[tuple[str, int, int, int], ...] = (
        ("tpe", given.tpe_worlds, given.tpe, given.tpe_window),
        ("theseus", given.theseus_worlds, given.theseus, THESEUS_WINDOW),
    )
    wanted = [
        Cell(sampler, world, proposals, window)
        for sampler, worlds, proposals, most in plan
        for world in range(worlds)
        for window in (None, most)
    ]
    done = finished(CELLS, Cell)
    missing = [cell for cell in wanted if cell not in done]
    limit = time.time() + 86_400
    if not run_cells(missing, lambda cell: partial(run_cell, cell), keep, given.jobs, limit):
        raise SystemExit("not all cells were run; the same command runs those that are missing")
    done = finished(CELLS, Cell)
    rows = [done[cell] for cell in wanted if cell in done]
    found, notes = figures(rows)
    write_record(
        "sampler_window",
        found,
        rows,
        sorted({row["world"] for row in rows}),
        notes,
        ("torch", "optuna", "moocore"),
    )
    for name, value in found.items():
        print(name, value, notes.get(name, ""))


if __name__ == "__main__":
    main()
