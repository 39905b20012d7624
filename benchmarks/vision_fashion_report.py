"""Figures, tables and the plot of Fashion-MNIST, from the cells that are there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.cells import Row
from benchmarks.search_cost_report import mean_curve, total, volumes
from benchmarks.vision_fashion import LEVELS, METHODS, OURS, SEARCHED
from benchmarks.vision_rates import SEEDS, FashionRows, fashion_front
from nas_theseus.estimate.pareto import front

# One net at the length that readers compare with published ones.
FULL_LEVEL, FULL_IMAGES, FULL_EPOCHS = 0.25, 55_000, 12

Figures = dict[str, float | None]


def searches(rows: FashionRows) -> dict[str, list[Row]]:
    """By method, one row a seed as `search_cost` has them: what was trained, in order."""
    found: dict[str, list[Row]] = {method: [] for method in METHODS}
    for method in METHODS:
        for seed in SEEDS:
            row = _searched(rows, method, seed)
            if row is not None:
                found[method].append(row)
    return {method: of for method, of in found.items() if of}


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


def _members(row: Row, within: float = math.inf) -> list[tuple[float, float]]:
    """MACs and test accuracy of the networks that validation puts on the front.

    Args:
        within: training multiply-adds by which they are made.
    """
    made = [one for one in row["trajectory"] if one["train_macs"] <= within]
    points = [one for one in made if one["validation"] and one["test"] is not None]
    chosen = front([(-one["validation"], one["macs"]) for one in points]) if points else []
    return sorted((points[i]["macs"], points[i]["test"]) for i in chosen)


def _best_within(members: Sequence[tuple[float, float]], macs: float) -> float:
    """Test accuracy of the most expensive member of a front within a cost."""
    return max((one for one in members if one[0] <= macs), default=(0.0, 0.0))[1]


def thirds(ours: Sequence[Row], other: Sequence[Row], within: float = math.inf) -> list[float]:
    """Differences in test points in each third of the logarithmic range that both fronts cover.

    Means over nine costs of a third, and over seeds.

    Args:
        within: training multiply-adds of each.
    """
    pairs = [(_members(a, within), _members(b, within)) for a, b in zip(ours, other, strict=False)]
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


@dataclass(frozen=True)
class Against:
    """A method of ours against the pruning that is best beside it.

    Attributes:
        rival: its name.
        macs: training multiply-adds of each: all that both have spent.
        ratio: of hypervolumes by then.
        points: `thirds` by then.
    """

    rival: str
    macs: float
    ratio: float
    points: list[float]
    seeds: int

    @classmethod
    def best(cls, ours: Sequence[Row], rivals: Mapping[str, Sequence[Row]]) -> Against:
        """Against every rival at equal compute; the one where the ratio is least."""
        found = []
        for name, other in rivals.items():
            macs = min(total(ours, "train_macs"), total(other, "train_macs"))
            ratio = at_compute(ours, macs) / at_compute(other, macs)
            seeds = min(len(ours), len(other))
            found.append(cls(name, macs, ratio, thirds(ours, other, macs), seeds))
        return min(found, key=lambda one: one.ratio)

    def __str__(self) -> str:
        points = ", ".join(f"{one:+.2f}" for one in self.points)
        return (
            f"over {self.rival} at {self.macs / 1e9:,.0f} G training MACs {self.ratio:.3f}, points "
            f"by thirds from the cheapest {points}; {self.seeds} of {len(SEEDS)} seeds"
        )


def fashion_figures(rows: FashionRows) -> tuple[Figures, dict[str, str]]:
    """Figures of Fashion-MNIST, with notes."""
    found: Figures = {"hypervolume_over_pruning": None, "worst_third_points": None}
    notes: dict[str, str] = {}
    of = searches(rows)
    rivals = {m: r for m, r in of.items() if m not in (*OURS, SEARCHED)}
    if "ours" in of and rivals:
        against = Against.best(of["ours"], rivals)
        found["hypervolume_over_pruning"] = against.ratio
        found["worst_third_points"] = min(against.points)
        notes["hypervolume_over_pruning"] = str(against)
        if SEARCHED in of:
            notes["hypervolume_over_pruning"] += (
                f"; a whole search {Against.best(of[SEARCHED], rivals)}"
            )
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


def fashion_plot(rows: FashionRows) -> Figure:
    """Hypervolume over training compute, and the fronts."""
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
