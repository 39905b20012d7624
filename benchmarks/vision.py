"""Vision networks: against structured pruning, and EfficientNet-Lite0 without labels.

    python -m benchmarks.vision fashion    # Fashion-MNIST: Torch-Pruning, narrowing, and ours
    python -m benchmarks.vision lite0      # ImageNet weights, photographs without labels
    python -m benchmarks.vision latency    # of whole networks, and as a sum of blocks
    python -m benchmarks.vision report     # the tables, plots and figures

Needs the dependency group `benchmarks`; Fashion-MNIST (`search_spaces/fashion_resnet.py`); and for
the last three steps EfficientNet-Lite0 (`search_spaces/efficientnet_lite0.py`) and Debian's
tuxpaint-stamps-default. Every cell is kept in results/vision_*_cells.jsonl as it ends; delete a
line to run it again. Cells run in the order in which they are worth it. `latency` has to be alone
on the machine.

All methods share data, epochs or steps, loss and training code. Rates are tuned for each method at
one budget, with a seed of its own on Fashion-MNIST, on validation; choices are made on validation,
and what is reported is measured on test.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks import vision_report as report
from benchmarks.cells import Row, append, finished
from benchmarks.vision_fashion import SEARCHED, FashionBench
from benchmarks.vision_fashion import Cell as FashionCell
from benchmarks.vision_fashion_report import FULL_EPOCHS, FULL_IMAGES, FULL_LEVEL
from benchmarks.vision_lite0 import Cell as Lite0Cell
from benchmarks.vision_lite0 import Lite0Bench
from benchmarks.vision_rates import (
    SEEDS,
    best_fashion_rate,
    best_lite0_rate,
    fashion_front,
    fashion_rates,
    lite0_rates,
)
from benchmarks.vision_report import FASHION, LATENCIES, LITE0, LITE0_RIVALS
from nas_theseus.errors import ConversionError, LimitError, TheseusError

AnyCell = TypeVar("AnyCell")
RANDOM_NETWORKS = 4
TRAINED_LITE0 = ("ours", "magnitude, uniform", "width", "taylor, uniform")


def planned_fashion(rows: Mapping[FashionCell, Row]) -> Iterator[FashionCell]:
    """The cells, most telling first."""
    main = ("taylor", "ours", "magnitude")
    chained = ("magnitude, chained", "taylor, chained")
    others = ("narrower", "bn_scale", "parts")
    for method in main:
        yield from fashion_rates(rows, method)
        yield from _front(rows, method, 0)
    yield from _front(rows, SEARCHED, 0)
    for seed in SEEDS[1:]:
        for method in ("ours", "magnitude", "taylor"):
            yield from _front(rows, method, seed)
    if (rate := best_fashion_rate(rows, "ours")) is not None:
        yield FashionCell("ours", FULL_LEVEL, rate, 0, FULL_IMAGES, FULL_EPOCHS)
    for method in chained:
        yield from fashion_rates(rows, method)
        for seed in SEEDS:
            yield from _front(rows, method, seed)
    for seed in SEEDS[1:]:
        yield from _front(rows, SEARCHED, seed)
    for method in others:
        yield from fashion_rates(rows, method)
        for seed in SEEDS:
            yield from _front(rows, method, seed)


def _front(rows: Mapping[FashionCell, Row], method: str, seed: int) -> Iterator[FashionCell]:
    """The cells of a method whose rates are known."""
    yield from fashion_front(rows, method, seed) or ()


def planned_lite0(rows: Mapping[Lite0Cell, Row]) -> Iterator[Lite0Cell]:
    """The cells, most telling first; rates are tuned at 60 %."""
    yield Lite0Cell("guide", 1.0, 0.0)
    randoms = [f"random{number}" for number in range(RANDOM_NETWORKS)]
    for method in TRAINED_LITE0:
        yield from lite0_rates(rows, method)
    for budget in (0.4, 0.8):
        yield from _tuned(rows, TRAINED_LITE0, budget, 0)
    for budget in (0.6, 0.4, 0.8):
        for method in (*LITE0_RIVALS, "residual", *randoms):
            yield Lite0Cell(method, budget, 0.0)
    yield from lite0_rates(rows, randoms[0])
    yield from _tuned(rows, randoms, 0.6, 0)
    for seed in SEEDS[1:]:
        for budget in (0.6, 0.4):
            yield from _tuned(rows, TRAINED_LITE0, budget, seed)
    for budget in (0.4, 0.8):
        yield from _tuned(rows, randoms, budget, 0)


def _tuned(
    rows: Mapping[Lite0Cell, Row], methods: Iterable[str], budget: float, seed: int
) -> Iterator[Lite0Cell]:
    """The cells of methods whose rates are known."""
    for method in methods:
        if (rate := best_lite0_rate(rows, method)) is not None:
            yield Lite0Cell(method, budget, rate, seed)


def run_missing(
    path: Path,
    kind: type[AnyCell],
    planned: Callable[[Mapping[AnyCell, Row]], Iterator[AnyCell]],
    run: Callable[[AnyCell], Row],
    deadline: float,
) -> None:
    """Run the cells that are missing, one after the other; each is kept as it ends.

    Kept too are a budget that a method cannot reach, and training that diverged. A cell that fails
    otherwise is reported and left to the next call.
    """
    failed: set[AnyCell] = set()
    while time.time() < deadline:
        rows = finished(path, kind)
        cell = next((one for one in planned(rows) if one not in rows and one not in failed), None)
        if cell is None:
            return
        try:
            row = run(cell)
        except (LimitError, ConversionError) as error:
            names: list[str] = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
            row = {**{name: getattr(cell, name) for name in names}, "failed": str(error)}
        except (TheseusError, RuntimeError) as error:
            print(f"{cell} failed, the next call tries again: {error!r}", flush=True)
            failed.add(cell)
            continue
        append(path, row)
        print(f"{cell}: {report.told(row)}", flush=True)


def run_fashion(folder: Path, deadline: float) -> None:
    """Train all networks on Fashion-MNIST."""
    bench = FashionBench(folder / "fashion")
    run_missing(FASHION, FashionCell, planned_fashion, bench.run, deadline)


def run_lite0(folder: Path, deadline: float) -> None:
    """Make and train all networks of EfficientNet-Lite0."""
    bench = Lite0Bench(folder / "lite0")
    run_missing(LITE0, Lite0Cell, planned_lite0, bench.run, deadline)


def measure_latencies(folder: Path, deadline: float) -> None:
    """Measure networks before training; those of an earlier call are measured again."""
    bench = Lite0Bench(folder / "lite0")
    LATENCIES.unlink(missing_ok=True)
    shop = bench.timed_shop()
    chosen: list[tuple[str, float, Any]] = [("guide", 1.0, bench.chosen("guide", 1.0)[1])]
    for budget in (0.8, 0.6, 0.4):
        for method in ("ours", "random0", "random1", "random2"):
            chosen.append((method, budget, bench.chosen(method, budget)[1]))
        chosen.append(("by latency", budget, bench.by_latency(shop, budget)))
    for method, budget, architecture in chosen:
        if time.time() > deadline:
            return
        row = {"threads": torch.get_num_threads(), "method": method, "budget": budget}
        row |= bench.latencies(shop, architecture)
        append(LATENCIES, row)
        print(row, flush=True)


def main() -> None:
    """Run one step."""
    steps: dict[str, Callable[[Path, float], None]] = {
        "fashion": run_fashion,
        "lite0": run_lite0,
        "latency": measure_latencies,
        "report": lambda folder, deadline: report.write(),
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=steps)
    parser.add_argument("--folder", type=Path, default=Path("theseus/vision"))
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no cell after this")
    options = parser.parse_args()
    steps[options.step](options.folder, time.time() + 60 * options.minutes)


if __name__ == "__main__":
    main()
