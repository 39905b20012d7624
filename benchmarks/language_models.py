"""Language models: SmolLM2-135M to smaller budgets, against depth and width pruning.

    python -m benchmarks.language_models library   # convert and score all blocks, resumable
    python -m benchmarks.language_models cells     # choose, measure, train; each cell is kept
    python -m benchmarks.language_models latency   # of whole networks, and block by block
    python -m benchmarks.language_models report    # the tables, plots and figures

All methods share calibration tokens, training tokens, loss and code. Choices and rates are made on
validation plays, and everything reported is measured on test plays. Budgets are shares of the
multiply-adds outside the embedding and the head.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from benchmarks.cells import Row, append, finished
from benchmarks.language_models_networks import VARIANTS, Bench, Cell
from benchmarks.language_models_report import (
    CELLS,
    DRAWN,
    LATENCIES,
    RATES,
    RIVALRY,
    best_rate,
    write,
)


def convert_library(bench: Bench) -> None:
    """Convert and score all blocks; those of an earlier call are there."""
    keys = bench.keys
    began = time.time()
    for number, (one, key) in enumerate(keys.items(), start=1):
        entry, made = bench.shop.keep_block(key, bench.library)
        if made is not None:
            facts = entry.record.facts
            name = bench.space.guide.names[one.span.start]
            print(
                f"{number}/{len(keys)} {name} {one}: divergence {facts.divergence:.4g}, "
                f"{facts.seconds:.1f} s, {(time.time() - began) / 60:.1f} min in all",
                flush=True,
            )


def planned(rows: Mapping[Cell, Row]) -> Iterator[Cell]:
    """The cells, most telling first. Rates are tuned at 60 %, each method's own on validation."""
    yield Cell("guide", 1.0, 0.0)
    for budget in (0.6, 0.4):
        for method in (*RIVALRY, "linear", "residual", "contribution"):
            yield Cell(method, budget, 0.0)
    for method in RIVALRY:
        for rate in RATES:
            yield Cell(method, 0.6, rate)
    yield from _tuned(rows, RIVALRY, 0.4)
    for number in range(4):
        yield Cell(f"random{number}", 0.6, 0.0)
    for method in RIVALRY:
        yield Cell(method, 0.8, 0.0)
    yield from _tuned(rows, RIVALRY, 0.8)
    for number in range(DRAWN):
        yield Cell(f"random{number}", 0.6, max(RATES), variant="16 steps")
    for budget in (0.6, 0.4):
        yield from _tuned(rows, RIVALRY, budget, seed=1)
    yield from _ablations(rows)


def _ablations(rows: Mapping[Cell, Row]) -> Iterator[Cell]:
    """What single parts are worth, at 60 %; variants have the rate of what they vary."""
    if rate := best_rate(rows, "ours"):
        for variant in VARIANTS:
            if variant not in ("", "random attention", "16 steps"):
                yield Cell("ours", 0.6, rate, variant=variant)
        for method in ("residual", "contribution", "linear"):
            yield Cell(method, 0.6, rate)
        yield Cell("linear", 0.6, rate, variant="random attention")
    for method in RIVALRY[1:]:
        if rate := best_rate(rows, method):
            yield Cell(method, 0.6, rate, variant="labels alone")


def _tuned(
    rows: Mapping[Cell, Row], methods: Iterable[str], budget: float, seed: int = 0
) -> Iterator[Cell]:
    """The cells of methods whose rates are known."""
    for method in methods:
        if rate := best_rate(rows, method):
            yield Cell(method, budget, rate, seed)


def run_cells(bench: Bench, deadline: float) -> None:
    """Run the cells that are missing, one after the other."""
    while time.time() < deadline:
        rows = finished(CELLS, Cell)
        cell = next((one for one in planned(rows) if one not in rows), None)
        if cell is None:
            return
        row = bench.run(cell)
        append(CELLS, row)
        print(
            f"{cell}: test perplexity {row['test_perplexity']:.2f}, divergence "
            f"{row['test_divergence']:.3f}, {row['macs_over_budget']:.3f} of the budget, "
            f"{row['seconds']:.0f} s",
            flush=True,
        )


def measure_latencies(bench: Bench) -> None:
    """Measure networks before training, alone on the machine."""
    LATENCIES.unlink(missing_ok=True)
    for method, budget in [("guide", 1.0)] + [
        (method, budget) for budget in (0.8, 0.6, 0.4) for method in (*RIVALRY, "linear")
    ]:
        row = {"method": method, "budget": budget, **bench.latencies(method, budget)}
        append(LATENCIES, row)
        print(row, flush=True)


def main() -> None:
    """Run one step."""
    steps: dict[str, Callable[[Bench, float], None]] = {
        "library": lambda bench, _: convert_library(bench),
        "cells": run_cells,
        "latency": lambda bench, _: measure_latencies(bench),
        "report": lambda bench, _: write(bench),
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=steps)
    parser.add_argument("--folder", type=Path, default=Path("theseus/language_models"))
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no cell after this")
    options = parser.parse_args()
    steps[options.step](Bench(options.folder), time.time() + 60 * options.minutes)


if __name__ == "__main__":
    main()
