"""The page of the benchmark of vision networks: its figures, tables and plots, from the cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import kendalltau  # type: ignore[import-untyped]

from benchmarks.cells import Row, finished, kept
from benchmarks.record import RESULTS, figure_table, write_record
from benchmarks.vision_fashion import Cell as FashionCell
from benchmarks.vision_fashion_report import (
    FASHION_TEXT,
    Figures,
    fashion_figures,
    fashion_plot,
    fashion_table,
    level_table,
)
from benchmarks.vision_lite0 import PRUNED
from benchmarks.vision_lite0 import Cell as Lite0Cell
from benchmarks.vision_rates import SEEDS, TUNING_SEED, Lite0Rows, best_lite0_rate
from nas_theseus.storage.whole_files import write_bytes

FASHION = RESULTS / "vision_fashion_cells.jsonl"
LITE0 = RESULTS / "vision_lite0_cells.jsonl"
LATENCIES = RESULTS / "vision_latencies.jsonl"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "evidence"
LITE0_RIVALS = ("ours", "width", *PRUNED)


def told(row: Row) -> str:
    """A cell in a few words."""
    if "failed" in row:
        return f"failed: {row['failed']}"
    seconds = f"{row['seconds']:.0f} s"
    if row.get("trajectory"):
        return f"{len(row['trajectory'])} architectures, {seconds}"
    if "test_agreement" in row:
        return (
            f"test agreement {row['test_agreement']:.4f}, divergence {row['test_divergence']:.4f}, "
            f"{row['share']:.3f} of the MACs, {seconds}"
        )
    if "validation" not in row:
        return f"test {row['guide_test']:.4f}, {seconds}"
    return f"validation {row['validation']:.4f}, test {row['test']:.4f}, {row['macs']:,} MACs"


# EfficientNet-Lite0.


def lite0_value(rows: Lite0Rows, method: str, budget: float, trained: bool, what: str) -> Any:
    """A measure, mean over the seeds that are there; None if there is none."""
    rate = best_lite0_rate(rows, method) if trained else 0.0
    found = [
        float(row[what])
        for cell, row in rows.items()
        if (cell.method, cell.budget, cell.rate) == (method, budget, rate) and what in row
    ]
    return fmean(found) if found else None


def lite0_figures(rows: Lite0Rows) -> tuple[Figures, dict[str, str]]:
    """Agreement of ours less that of the best pruning, after training."""
    found: Figures = {}
    notes: dict[str, str] = {}
    for budget in (0.6, 0.4):
        name = f"agreement_{budget:.0%}_minus_pruning".replace("%", "")
        values = {
            method: value
            for method in ("ours", *PRUNED)
            if (value := lite0_value(rows, method, budget, True, "test_agreement")) is not None
        }
        mine, rivals = values.pop("ours", None), values
        best = max(rivals, key=lambda method: rivals[method], default="")
        found[name] = None if mine is None or not rivals else 100 * (mine - rivals[best])
        if found[name] is not None:
            notes[name] = f"points, over {best}"
    return found, notes


def lite0_table(rows: Lite0Rows) -> list[str]:
    """Every method at every budget, before training and after."""
    lines = [
        "| budget | method | agreement untrained | divergence | trained | divergence | rate "
        "| share of MACs | seeds |",
        "|---" * 9 + "|",
    ]
    places = {(cell.budget, cell.method) for cell in rows if cell.method != "guide"}
    for budget, method in sorted(places, key=lambda place: (-place[0], place[1])):
        cells = [
            lite0_value(rows, method, budget, trained, f"test_{what}")
            for trained in (False, True)
            for what in ("agreement", "divergence")
        ]
        rate = best_lite0_rate(rows, method)
        seeds = sum(
            (c.method, c.budget, c.rate) == (method, budget, rate) for c in rows if rate is not None
        )
        share = lite0_value(rows, method, budget, False, "share")
        shown = ["–" if value is None else f"{value:.3f}" for value in cells]
        lines.append(
            f"| {budget:.0%} | {method} | {' | '.join(shown)} | {'–' if rate is None else rate} "
            f"| {'–' if share is None else f'{share:.3f}'} | {seeds} |"
        )
    return lines


def _lite0_plot(rows: Lite0Rows) -> Figure:
    figure = Figure(figsize=(9, 3.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, trained in zip(panels, (False, True), strict=True):
        for method in LITE0_RIVALS:
            points = [
                (100 * budget, 100 * value)
                for budget in (0.4, 0.6, 0.8)
                if (value := lite0_value(rows, method, budget, trained, "test_agreement"))
                is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", markersize=4, label=method)
        axes.set_title("after training" if trained else "before training", fontsize=9)
        axes.set_xlabel("% of the guide's MACs")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("agreement with the guide (%)")
    if panels[0].has_data():
        panels[0].legend(fontsize=8)
    return figure


# Latency.


def latency_figures(found: Sequence[Row]) -> tuple[Figures, dict[str, str]]:
    """Median error of sums, and how well they rank; the guide, which corrects them, left out."""
    rows = [row for row in found if row["method"] != "guide"]
    errors = [abs(row["sum_ms"] / row["whole_ms"] - 1) for row in rows]
    sums, wholes = ([row[name] for row in rows] for name in ("sum_ms", "whole_ms"))
    figures: Figures = {
        "latency_sum_error": median(errors) if errors else None,
        "latency_tau": float(kendalltau(sums, wholes).statistic) if len(rows) > 2 else None,
    }
    said = f"{len(rows)} networks, batch 1, float32" if rows else ""
    return figures, dict.fromkeys(figures, said) if rows else {}


def latency_table(found: Sequence[Row]) -> list[str]:
    """Measured and summed latencies, and quality before training."""
    lines = [
        "| network | whole (ms) | sum (ms) | MACs (M) | agreement untrained | divergence |",
        "|---" * 6 + "|",
    ]
    for row in found:
        name = "guide" if row["method"] == "guide" else f"{row['method']} {row['budget']:.0%}"
        lines.append(
            f"| {name} | {row['whole_ms']:.2f} | {row['sum_ms']:.2f} "
            f"| {row['macs'] / 1e6:.1f} | {row['test_agreement']:.3f} "
            f"| {row['test_divergence']:.3f} |"
        )
    return lines


def write() -> None:
    """``results/vision.json``, ``docs/evidence/vision.md`` and its plots."""
    fashion, lite0 = finished(FASHION, FashionCell), finished(LITE0, Lite0Cell)
    latencies = kept(LATENCIES)
    found: Figures = {}
    notes: dict[str, str] = {}
    for figures, said in (
        fashion_figures(fashion),
        lite0_figures(lite0),
        latency_figures(latencies),
    ):
        found |= figures
        notes |= said
    notes |= {name: "its cells have not been run" for name, v in found.items() if v is None}
    cells = [*fashion.values(), *lite0.values(), *latencies]
    packages = ("torch", "torchvision", "torch-pruning")
    path = write_record("vision", found, cells, [*SEEDS, TUNING_SEED], notes, packages)
    lines = [
        "# Vision networks: against pruning, and without labels",
        "",
        "Written by `python -m benchmarks.vision report` from `benchmarks/results/vision.json`.",
        "",
        *figure_table(found, notes),
    ]
    if fashion:
        fashion_plot(fashion).savefig(DOCS / "vision-fashion.png")
        lines += ["", "## Fashion-MNIST, a pretrained guide", "", FASHION_TEXT, ""]
        lines += [*fashion_table(fashion), "", "Test accuracy by level, seed 0:", ""]
        lines += [*level_table(fashion), "", "![hypervolume and fronts](vision-fashion.png)"]
    if lite0:
        _lite0_plot(lite0).savefig(DOCS / "vision-lite0.png")
        lines += ["", "## EfficientNet-Lite0 on photographs without labels", "", LITE0_TEXT, ""]
        lines += [*lite0_table(lite0), "", "![agreement over budgets](vision-lite0.png)"]
    if latencies:
        lines += ["", "## Latency", "", LATENCY_TEXT, "", *latency_table(latencies)]
    write_bytes(DOCS / "vision.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))
    print(f"wrote {path}")


LITE0_TEXT = (
    "ImageNet weights, 128 pixels; photographs that packages install, 6,400 crops for training, "
    "512 for validation, 1,024 for the test, of different pictures. 100 steps of 32 with the "
    "divergence from the guide's outputs, a rate tuned for each method at 60 %. Batch norms are "
    "recalibrated where that lowers the divergence, for all, before training too, and keep their "
    "statistics in training. `width` narrows all blocks by one share, with channels and maps "
    "fitted as ours; `residual` chooses by residuals; `random` are networks of our library. "
    "`taylor` takes the divergence's gradient, and at its first steps, where it is 0, that of the "
    "guide's likeliest classes. Global ranking, which is best on Fashion-MNIST, cuts single layers "
    "to nothing here; `uniform` takes the same share from all layers, Torch-Pruning's default."
)
LATENCY_TEXT = (
    "`block_latency_ms` at batch 1 on one thread: the median of a whole network, and the sum of "
    "its blocks, each measured alone and corrected by the guide as a whole. `by latency` is chosen "
    "for a share of the guide's latency, the others for a share of its MACs."
)
