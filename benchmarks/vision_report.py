"""Figures, tables and plots of the benchmark of vision networks, from the cells that are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import kendalltau  # type: ignore[import-untyped]

from benchmarks.cells import Row, finished, kept
from benchmarks.record import RESULTS, figure_table, write_record
from benchmarks.search_cost_report import mean_curve, total, volumes
from benchmarks.vision_fashion import CHAINED, LEVELS, METHODS, OURS, SEARCHED
from benchmarks.vision_fashion import Cell as FashionCell
from benchmarks.vision_lite0 import PRUNED
from benchmarks.vision_lite0 import Cell as Lite0Cell
from nas_theseus.estimate.pareto import front
from nas_theseus.storage.whole_files import write_bytes

FASHION = RESULTS / "vision_fashion_cells.jsonl"
LITE0 = RESULTS / "vision_lite0_cells.jsonl"
LATENCIES = RESULTS / "vision_latencies.jsonl"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "evidence"
SEEDS, TUNING_SEED = (0, 1, 2), 100
# Rates are tuned at two levels: what is narrow learns best with others than what is wide.
TUNING_LEVEL, LOW_TUNING_LEVEL, LOW_LEVELS = 0.3, 0.1, 0.2
# The grid goes on by factors of 2 while the best rate lies at its edge, up to these.
FASHION_RATES, FASHION_WITHIN = (1.5e-3, 3e-3, 6e-3), (3e-4, 3e-2)
LITE0_GRID, LITE0_WITHIN, LITE0_BUDGET = (1e-4, 3e-4, 1e-3), (2e-5, 1.3e-2), 0.6
# One net at the length that readers compare with published ones.
FULL_LEVEL, FULL_IMAGES, FULL_EPOCHS = 0.25, 55_000, 12
TRAINED_LITE0 = ("ours", "magnitude", "taylor", "width")
LITE0_RIVALS = ("ours", "width", *PRUNED)

FashionRows = Mapping[FashionCell, Row]
Lite0Rows = Mapping[Lite0Cell, Row]
Figures = dict[str, float | None]


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


# Rates.


def _grid(
    known: Mapping[float, float], rates: Sequence[float], within: tuple[float, float]
) -> list[float]:
    """The rates to try; the best one is not at an edge if all are known, or is at a limit.

    Args:
        known: validation by rate, more is better.
    """
    tried = sorted(rates)
    while all(rate in known for rate in tried):
        best = max(tried, key=lambda rate: known[rate])
        beyond = {tried[0]: best / 2, tried[-1]: best * 2}.get(best)
        if beyond is None or not within[0] <= beyond <= within[1]:
            break
        tried = sorted([*tried, beyond])
    return tried


def _tuning_levels(method: str, level: float) -> Sequence[float]:
    """The levels at which the rate of a level is tuned, largest first: all of a chain's."""
    if method in CHAINED:
        return sorted(LEVELS, reverse=True)
    return (LOW_TUNING_LEVEL if level <= LOW_LEVELS and method != SEARCHED else TUNING_LEVEL,)


def _tuning(method: str, level: float, rate: float) -> list[FashionCell]:
    """The cells that try a rate."""
    tuned = "ours" if method == SEARCHED else method
    return [FashionCell(tuned, each, rate, TUNING_SEED) for each in _tuning_levels(method, level)]


def _fashion_grid(rows: FashionRows, method: str, level: float) -> dict[float, float | None]:
    """The rates to try for a level, with the mean validation of those that were tried."""
    known: dict[float, float] = {}
    rates = {cell.rate for cell in rows if cell.seed == TUNING_SEED}
    for rate in rates | set(FASHION_RATES):
        cells = _tuning(method, level, rate)
        if all(cell in rows for cell in cells):
            known[rate] = fmean(float(rows[cell].get("validation", 0.0)) for cell in cells)
    within = (FASHION_RATES[0], FASHION_RATES[-1]) if method in CHAINED else FASHION_WITHIN
    return {rate: known.get(rate) for rate in _grid(known, FASHION_RATES, within)}


def fashion_rates(rows: FashionRows, method: str) -> Iterator[FashionCell]:
    """The cells that tune a method's rates."""
    for level in LEVELS[:1] if method in CHAINED else (TUNING_LEVEL, LOW_TUNING_LEVEL):
        for rate in _fashion_grid(rows, method, level):
            yield from _tuning(method, level, rate)


def best_fashion_rate(rows: FashionRows, method: str, level: float = TUNING_LEVEL) -> float | None:
    """The best rate for a level on validation; None before all were tried.

    Searches and chains have one rate for all their networks.
    """
    grid = _fashion_grid(rows, method, level)
    known = {rate: value for rate, value in grid.items() if value is not None}
    return max(known, key=lambda rate: known[rate]) if len(known) == len(grid) else None


def _lite0_known(rows: Lite0Rows, method: str) -> dict[float, float]:
    return {
        cell.rate: -float(row.get("validation_divergence", 1e9))
        for cell, row in rows.items()
        if (cell.method, cell.budget, cell.seed) == (method, LITE0_BUDGET, 0) and cell.rate
    }


def lite0_rates(rows: Lite0Rows, method: str) -> Iterator[Lite0Cell]:
    """The cells that tune a method's rate, by its divergence at 60 %."""
    for rate in _grid(_lite0_known(rows, method), LITE0_GRID, LITE0_WITHIN):
        yield Lite0Cell(method, LITE0_BUDGET, rate)


def best_lite0_rate(rows: Lite0Rows, method: str) -> float | None:
    """The best rate on validation; None before all were tried. Random networks share one."""
    known = _lite0_known(rows, "random0" if method.startswith("random") else method)
    if any(rate not in known for rate in _grid(known, LITE0_GRID, LITE0_WITHIN)):
        return None
    return max(known, key=lambda rate: known[rate])


# Fashion-MNIST.


def searches(rows: FashionRows) -> dict[str, list[Row]]:
    """By method, one row a seed as `search_cost` has them: what was trained, in order."""
    found: dict[str, list[Row]] = {method: [] for method in METHODS}
    for method in METHODS:
        for seed in SEEDS:
            row = _searched(rows, method, seed)
            if row is not None:
                found[method].append(row)
    return {method: of for method, of in found.items() if of}


def fashion_front(rows: FashionRows, method: str, seed: int) -> list[FashionCell] | None:
    """The cells of a method with a seed, in order; None before its rates are known.

    Chained networks come from the largest down.
    """
    levels: Sequence[float] = (0.0,) if method == SEARCHED else LEVELS
    if method in CHAINED:
        levels = sorted(LEVELS, reverse=True)
    rates = {level: best_fashion_rate(rows, method, level) for level in levels}
    cells = [FashionCell(method, level, rate, seed) for level, rate in rates.items() if rate]
    return cells if len(cells) == len(levels) else None


def _searched(rows: FashionRows, method: str, seed: int) -> Row | None:
    """A method's networks with a seed; None before all levels are there."""
    cells = fashion_front(rows, method, seed)
    if cells is not None and method == SEARCHED:
        return rows.get(cells[0])
    if cells is None or any(cell not in rows for cell in cells):
        return None
    made = [rows[cell] for cell in cells if "failed" not in rows[cell]]
    if not made:
        return None
    trajectory, spent, way = [], 0, 0
    for one in made:
        spent, way = spent + one["own_macs"], max(way, one.get("way_macs", 0))
        row = {name: one[name] for name in ("validation", "test", "macs")}
        trajectory.append({**row, "train_macs": one["once_macs"] + spent + way})
    return {
        **{n: v for n, v in made[0].items() if n.startswith("guide_")},
        "trajectory": trajectory,
    }


def at_compute(rows: Sequence[Row], macs: float) -> float:
    """Mean hypervolume that seeds reached by a number of training multiply-adds."""
    reached = [volume for cost, volume in mean_curve(rows, "train_macs") if cost <= macs]
    return reached[-1] if reached else 0.0


def _members(row: Row) -> list[tuple[float, float]]:
    """MACs and test accuracy of the networks that validation puts on the front."""
    points = [one for one in row["trajectory"] if one["validation"] and one["test"] is not None]
    chosen = front([(-one["validation"], one["macs"]) for one in points]) if points else []
    return sorted((points[i]["macs"], points[i]["test"]) for i in chosen)


def _best_within(members: Sequence[tuple[float, float]], macs: float) -> float:
    """Test accuracy of the most expensive member of a front within a cost."""
    return max((one for one in members if one[0] <= macs), default=(0.0, 0.0))[1]


def thirds(ours: Sequence[Row], other: Sequence[Row]) -> list[float]:
    """Differences in test points in each third of the logarithmic range that both fronts cover.

    Means over nine costs of a third, and over seeds.
    """
    pairs = [(_members(a), _members(b)) for a, b in zip(ours, other, strict=False)]
    low = max(members[0][0] for pair in pairs for members in pair)
    high = max(row["guide_macs"] for row in ours)
    found = []
    for third in range(3):
        places = [(third + (n + 0.5) / 9) / 3 for n in range(9)]
        costs = [low * (high / low) ** place for place in places]
        found.append(
            100 * fmean(_best_within(a, c) - _best_within(b, c) for a, b in pairs for c in costs)
        )
    return found


def fashion_figures(rows: FashionRows) -> tuple[Figures, dict[str, str]]:
    """Figures of Fashion-MNIST, with notes."""
    found: Figures = {"hypervolume_over_pruning": None, "worst_third_points": None}
    notes: dict[str, str] = {}
    of = searches(rows)
    mine = {m: of[m] for m in (*OURS[:1], SEARCHED) if m in of}
    rivals = {m: r for m, r in of.items() if m not in (*OURS, SEARCHED)}
    if mine and rivals:
        budget = min(total(one, "train_macs") for one in (*mine.values(), *rivals.values()))
        best_mine = max(mine, key=lambda m: at_compute(mine[m], budget))
        best_rival = max(rivals, key=lambda m: at_compute(rivals[m], budget))
        ours, other = mine[best_mine], rivals[best_rival]
        found["hypervolume_over_pruning"] = at_compute(ours, budget) / at_compute(other, budget)
        notes["hypervolume_over_pruning"] = (
            f"{best_mine} over {best_rival} at {budget / 1e9:,.0f} G training MACs; "
            f"{min(len(ours), len(other))} of {len(SEEDS)} seeds"
        )
        points = thirds(ours, other)
        found["worst_third_points"] = min(points)
        notes["worst_third_points"] = "from the cheapest: " + ", ".join(f"{p:+.2f}" for p in points)
    full = [row for cell, row in rows.items() if cell.images == FULL_IMAGES]
    found["full_length_accuracy_quarter"] = full[0]["test"] if full else None
    if full:
        notes["full_length_accuracy_quarter"] = (
            f"{full[0]['macs'] / full[0]['guide_macs']:.3f} of the guide's MACs; guide "
            f"{full[0]['guide_test']:.4f}"
        )
    return found, notes


def fashion_table(rows: FashionRows) -> list[str]:
    """Hypervolumes and compute of all methods."""
    of = searches(rows)
    budget = min((total(one, "train_macs") for one in of.values()), default=0)
    lines = [
        f"| method | hypervolume | at {budget / 1e9:,.0f} G | training MACs | networks | rate "
        "| seeds |",
        "|---" * 7 + "|",
    ]
    for method, each in of.items():
        last = [volumes(row)[-1] for row in each]
        spread = f" ± {stdev(last):.4f}" if len(last) > 1 else ""
        cells = fashion_front(rows, method, SEEDS[0]) or []
        lines.append(
            f"| {method} | {fmean(last):.4f}{spread} | {at_compute(each, budget):.4f} "
            f"| {total(each, 'train_macs') / 1e9:,.0f} G | {len(each[0]['trajectory'])} "
            f"| {' and '.join(dict.fromkeys(f'{cell.rate:g}' for cell in cells))} | {len(each)} |"
        )
    return lines


def level_table(rows: FashionRows) -> list[str]:
    """Test accuracy by level, seed 0."""
    levels = sorted(LEVELS, reverse=True)
    lines = [
        "| method | " + " | ".join(f"{level:.0%}" for level in levels) + " |",
        "|---" * (1 + len(levels)) + "|",
    ]
    for method in (one for one in METHODS if one != SEARCHED):
        of = {cell.level: rows.get(cell) for cell in fashion_front(rows, method, SEEDS[0]) or []}
        cells = [of.get(level) for level in levels]
        if any(cells):
            shown = [f"{c['test']:.4f}" if c and "test" in c else "–" for c in cells]
            lines.append(f"| {method} | " + " | ".join(shown) + " |")
    return lines


def _fashion_plot(rows: FashionRows) -> Figure:
    figure = Figure(figsize=(10, 3.8), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    of = searches(rows)
    for number, (method, each) in enumerate(of.items()):
        colour = f"C{number % 10}"
        curve = mean_curve(each, "train_macs")
        left.plot(*zip(*curve, strict=True), drawstyle="steps-post", color=colour, label=method)
        for row in each:
            if members := _members(row):
                right.plot(*zip(*members, strict=True), ".-", color=colour, alpha=0.7, linewidth=1)
    if of:
        guide = next(iter(of.values()))[0]
        right.axhline(guide["guide_test"], color="gray", linestyle="--", linewidth=1)
        left.legend(fontsize=7)
    left.set_xlabel("training MACs")
    left.set_ylabel("hypervolume (test)")
    right.set_xlabel("MACs")
    right.set_ylabel("test accuracy; dashed: the guide")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
    return figure


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
    """Median error of sums, and how well they rank, through torch."""
    rows = [row for row in found if row["runtime"] == "torch"]
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
        "| runtime | network | whole (ms) | sum of blocks (ms) | MACs (M) | agreement untrained "
        "| divergence |",
        "|---" * 7 + "|",
    ]
    for row in found:
        name = "guide" if row["method"] == "guide" else f"{row['method']} {row['budget']:.0%}"
        lines.append(
            f"| {row['runtime']} | {name} | {row['whole_ms']:.2f} | {row['sum_ms']:.2f} "
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
        _fashion_plot(fashion).savefig(DOCS / "vision-fashion.png")
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


FASHION_TEXT = (
    "The guide is trained on 55,000 images; all methods get 5,500 of them, 8 epochs, the guide's "
    "logits, and rates tuned on validation at 30 % and, for small networks, at 10 %, with a seed "
    "of its own; a chain's rate on all its networks. Each method makes one network for each share "
    "of the guide's MACs (Torch-Pruning 1.5, global ranking, 100 steps; `chained` prunes the "
    "trained network of the level above); `ours`, `parts` and `narrower` take the network with the "
    "least sum of block divergences; `search` is a whole search with the sampler `theseus`. Batch "
    "norms are recalibrated for all where that lowers the loss. Training MACs hold every network, "
    "the conversion and scoring of all blocks, Taylor's gradients and the guide's logits, but not "
    "tuning. Hypervolume as in [search-cost](search-cost.md): over test accuracy and log10 MACs of "
    "what validation puts on the front."
)
LITE0_TEXT = (
    "ImageNet weights, 128 pixels; photographs that packages install, 6,400 crops for training, "
    "512 for validation, 1,024 for the test, of different pictures. 100 steps of 32 with the "
    "divergence from the guide's outputs, a rate tuned for each method at 60 %. Batch norms are "
    "recalibrated where that lowers the divergence, for all, before training too, and keep their "
    "statistics in training. `width` narrows all blocks by one share, with channels and maps "
    "fitted as ours; `residual` chooses by residuals; `random` are networks of our library. "
    "`taylor` takes the divergence's gradient, but at its first steps, where it is 0, and `taylor, "
    "labels` always, that of the guide's likeliest classes."
)
LATENCY_TEXT = (
    "`block_latency_ms` at batch 1: the median of a whole network, and the sum of its blocks, each "
    "measured alone. `by latency` is chosen for a share of the guide's latency, the others for a "
    "share of its MACs."
)
