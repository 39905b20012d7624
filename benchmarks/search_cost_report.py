"""Figures, tables and plots of `benchmarks.search_cost`, from its cells."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.record import RESULTS, figure_table, write_record
from benchmarks.search_cost_tau_report import tau_figures, tau_table
from nas_theseus.estimate.pareto import front, hypervolume
from nas_theseus.storage.whole_files import write_bytes

DOCS = Path(__file__).resolve().parent.parent / "docs" / "evidence"
TABLE = DOCS / "search-cost.md"
Row = Mapping[str, Any]
# Searches of a regime, by method.
Searches = Mapping[str, Sequence[Row]]
NOT_RUN = "the cells it needs have not been run"
AXES = {"train_macs": "training MACs", "core_seconds": "core-seconds"}


def told(row: Row) -> str:
    """A cell in one line."""
    if "full" in row:
        return "full " + ", ".join(f"{one['validation']:.4f}" for one in row["full"])
    if "validation" in row:
        return f"validation {row['validation']:.4f}"
    last = row["trajectory"][-1]
    return f"{last['train_macs'] / 1e9:,.0f} G MACs, {last['core_seconds']:,.0f} core-seconds"


def volumes(row: Row) -> list[float]:
    """Hypervolume after each evaluation, over test accuracy and log10 MACs.

    Of the nets that validation has on the front by then; reference: the guide's MACs, its test
    accuracy less ten points.
    """
    reference = (0.1 - row["guide_test"], math.log10(row["guide_macs"]))
    seen: list[tuple[float, float]] = []
    tested: list[float | None] = []
    found = []
    for one in row["trajectory"]:
        if one["validation"] is not None:
            seen.append((-one["validation"], math.log10(one["macs"])))
            tested.append(one["test"])
        chosen = front(seen) if seen else []
        points = [(-test, seen[i][1]) for i in chosen if (test := tested[i]) is not None]
        found.append(hypervolume(points, reference) if points else 0.0)
    return found


def on_validation(row: Row) -> float:
    """Final hypervolume over validation accuracy, by which recipes are chosen."""
    reference = (0.1 - row["guide_validation"], math.log10(row["guide_macs"]))
    ended = [one for one in row["trajectory"] if one["test"] is not None]
    return hypervolume([(-one["validation"], math.log10(one["macs"])) for one in ended], reference)


def mean_curve(rows: Sequence[Row], axis: str) -> list[tuple[float, float]]:
    """Mean over seeds of the hypervolume reached by a cost: steps up, at each cost where one is."""
    curves = [([one[axis] for one in row["trajectory"]], volumes(row)) for row in rows]
    costs = sorted({cost for spent, _ in curves for cost in spent})
    return [
        (cost, statistics.fmean(_at(spent, volume, cost) for spent, volume in curves))
        for cost in costs
    ]


def _at(spent: Sequence[float], volume: Sequence[float], cost: float) -> float:
    reached = [v for s, v in zip(spent, volume, strict=True) if s <= cost]
    return reached[-1] if reached else 0.0


def final(rows: Sequence[Row]) -> float:
    """Mean final hypervolume."""
    return statistics.fmean(volumes(row)[-1] for row in rows)


def total(rows: Sequence[Row], axis: str) -> float:
    """Mean cost of whole searches."""
    return statistics.fmean(row["trajectory"][-1][axis] for row in rows)


def share_to_reach(ours: Sequence[Row], baseline: Sequence[Row], axis: str) -> float | None:
    """Cost at which ours has the baseline's final hypervolume, over the baseline's whole cost."""
    target = final(baseline)
    cost = next((cost for cost, volume in mean_curve(ours, axis) if volume >= target), None)
    return None if cost is None else cost / total(baseline, axis)


def figures(
    regimes: Mapping[str, Searches], tau: Sequence[Row], planned: int
) -> tuple[dict[str, float | int | None], dict[str, str]]:
    """The figures and, for those that lack cells or seeds, why.

    Args:
        planned: seeds that each method is to have.
    """
    found: dict[str, float | int | None] = {}
    notes: dict[str, str] = {}
    same = regimes.get("same_data", {})
    for name, regime, baseline, axis in (
        ("compute_over_scratch", "same_data", "scratch", "train_macs"),
        ("compute_over_scratch_pretrained", "pretrained", "scratch", "train_macs"),
        ("seconds_over_scratch", "same_data", "scratch", "core_seconds"),
        ("seconds_over_scratch_pretrained", "pretrained", "scratch", "core_seconds"),
        ("compute_over_kd", "same_data", "kd", "train_macs"),
        ("compute_over_kd_pretrained", "pretrained", "kd", "train_macs"),
    ):
        ours, other = (regimes.get(regime, {}).get(method, ()) for method in ("ours", baseline))
        found[name] = share_to_reach(ours, other, axis) if ours and other else None
        if ours and other and found[name] is None:
            reached = final(ours) / final(other)
            notes[name] = f"not reached: ours ends at {reached:.3f} of {baseline}'s hypervolume"
        elif seeds := _few(planned, ours, other):
            notes[name] = seeds
        elif ours and other:
            alone = [share_to_reach([row], other, axis) for row in ours]
            said = ("not reached" if share is None else f"{share:.3f}" for share in alone)
            notes[name] = f"of the seeds' mean; each seed alone: {', '.join(said)}"
    ours, scratch = same.get("ours", ()), same.get("scratch", ())
    found["hypervolume_over_scratch"] = final(ours) / final(scratch) if ours and scratch else None
    if seeds := _few(planned, ours, scratch):
        notes["hypervolume_over_scratch"] = seeds
    tau_found, tau_notes = tau_figures(tau)
    found |= tau_found
    further = [
        row["further"]["macs_spent"] / row["trajectory"][-1]["train_macs"]
        for row in ours
        if "further" in row
    ]
    found["further_budget_share"] = statistics.fmean(further) if further else None
    if further:
        limit = ours[0]["further"]["limit"]
        notes["further_budget_share"] = f"one more net, asked with {limit}, its blocks included"
    second = [row["second"] for row in ours if "second" in row]
    found["second_search_conversions"] = second[0]["converted_again"] if second else None
    if second:
        notes["second_search_conversions"] = (
            "blocks that the first search had converted and the second, with another seed, "
            f"converted again; in {second[0]['trials']} trials it converted "
            f"{second[0]['blocks_converted']:.0f} that were not there yet and took "
            f"{second[0]['blocks_reused']:.0f}"
        )
    step = RESULTS / "step.json"
    found["step_over_bare"] = (
        json.loads(step.read_text())["figures"]["step_over_bare"] if step.exists() else None
    )
    if not step.exists():
        notes["step_over_bare"] = "python -m benchmarks.step has not been run"
    missing = {name: NOT_RUN for name, value in found.items() if value is None}
    return found, missing | tau_notes | notes


def _few(planned: int, *cells: Sequence[Row]) -> str:
    seeds = min(map(len, cells))
    return f"{seeds} of {planned} seeds so far" if 0 < seeds < planned else ""


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def table(searches: Searches) -> list[str]:
    """One line a method: hypervolume and costs, and what it takes to reach scratch's."""
    lines = [
        "| method | final hypervolume | on validation | training MACs | of it blocks "
        "| core-seconds | blocks converted | scratch's hypervolume reached at: MACs "
        "| core-seconds | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    scratch = searches.get("scratch", ())
    for method, rows in searches.items():
        if not rows:
            continue
        shares = [
            share_to_reach(rows, scratch, axis) if scratch and method != "scratch" else None
            for axis in AXES
        ]
        blocks = statistics.fmean(row["trajectory"][-1].get("block_macs", 0) for row in rows)
        converted = statistics.fmean(
            row.get("blocks", {}).get("blocks_converted", 0) for row in rows
        )
        cells = [
            method,
            _mean_and_spread([volumes(row)[-1] for row in rows]),
            _mean_and_spread([on_validation(row) for row in rows]),
            f"{total(rows, 'train_macs') / 1e9:,.0f} G",
            f"{blocks / 1e9:,.0f} G",
            f"{total(rows, 'core_seconds'):,.0f}",
            f"{converted:.0f}",
            *("–" if share is None else f"{100 * share:.1f} %" for share in shares),
            str(len(rows)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _plot(searches: Searches) -> Figure:
    """Mean hypervolume over both costs, the range of seeds shaded; final fronts beside them."""
    figure = Figure(figsize=(15, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = [figure.add_subplot(1, 3, index + 1) for index in range(3)]
    for number, (method, rows) in enumerate((m, r) for m, r in searches.items() if r):
        colour = f"C{number}"
        for axes, axis in zip(panels, AXES, strict=False):
            curve = mean_curve(rows, axis)
            costs, means = zip(*curve, strict=True)
            axes.plot(costs, means, drawstyle="steps-post", color=colour, label=method)
            curves = [([one[axis] for one in row["trajectory"]], volumes(row)) for row in rows]
            ends = [[_at(*one, cost) for one in curves] for cost in costs]
            axes.fill_between(
                costs,
                [min(e) for e in ends],
                [max(e) for e in ends],
                step="post",
                alpha=0.15,
                color=colour,
            )
        for row in rows:
            points = [
                (-one["validation"], one["macs"], one["test"])
                for one in row["trajectory"]
                if one["validation"] is not None and one["test"] is not None
            ]
            members = sorted((points[i][1], points[i][2]) for i in front([p[:2] for p in points]))
            panels[2].plot(*zip(*members, strict=True), ".", color=colour, alpha=0.7)
    guide = next(rows[0] for rows in searches.values() if rows)
    panels[0].axvline(guide["guide_training_macs"], color="gray", linestyle=":", linewidth=1)
    panels[0].set_title("dotted: the guide's own training, not charged", fontsize=9)
    panels[2].axhline(guide["guide_test"], color="gray", linestyle="--", linewidth=1)
    panels[2].set_title("fronts that validation chose, all seeds; dashed: the guide", fontsize=9)
    for axes, name in zip(panels, (*AXES.values(), "MACs"), strict=True):
        axes.set_xscale("log")
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("hypervolume (test)")
    panels[2].set_ylabel("test accuracy")
    panels[0].legend(fontsize=8)
    return figure


def _facts(searches: Searches) -> str:
    """Guide, sizes, and whether the space discriminates."""
    rows = [row for rows in searches.values() for row in rows]
    one = rows[0]
    said = (
        f"{one['images']:,} images, {one['epochs']} epochs from scratch, {one['trials']} "
        f"architectures a search. Guide: test {one['guide_test']:.4f}, validation "
        f"{one['guide_validation']:.4f}, {one['guide_macs'] / 1e6:.2f} M MACs; its own training "
        f"took {one['guide_training_macs'] / 1e9:,.0f} G MACs, not charged."
    )
    scratch = [point for row in searches.get("scratch", ()) for point in row["trajectory"]]
    if scratch:
        known = [(-p["validation"], p["macs"], p["test"]) for p in scratch if p["test"] is not None]
        ends = sorted((known[i][1], known[i][2]) for i in front([point[:2] for point in known]))
        said += (
            f" Front from scratch, all seeds: {ends[0][0] / 1e6:.3f} to {ends[-1][0] / 1e6:.2f} M "
            f"MACs (1 to {ends[-1][0] / ends[0][0]:.0f}), test {ends[0][1]:.3f} to "
            f"{ends[-1][1]:.3f}."
        )
    return said


def write(
    regimes: Mapping[str, Searches],
    tuning: Mapping[str, Sequence[str]],
    tau: Sequence[Row],
    cells: Sequence[Row],
    seeds: Sequence[int],
) -> None:
    """``results/search_cost.json``, ``docs/evidence/search-cost.md`` and its plots.

    Args:
        regimes: the searches that were asked for.
        tuning: lines that tell what tuning gave, by regime.
        cells: every raw run, those of tuning and τ too.
        seeds: of searches, and last that of tuning.
    """
    found, notes = figures(regimes, tau, len(seeds) - 1)
    path = write_record("search_cost", found, cells, seeds, notes)
    lines = [
        "# What a search costs",
        "",
        "Written by `python -m benchmarks.search_cost --report` from "
        "`benchmarks/results/search_cost.json`. Hypervolume over test accuracy and log10 MACs of "
        "the nets that validation had on the front at that moment, from the guide's MACs and its "
        "test accuracy less ten points. Charged: everything that trains, alignment, blocks, the "
        "guide's activations and logits. Core-seconds are processor time of what evaluates.",
        "",
        *figure_table(found, notes),
    ]
    for regime, searches in regimes.items():
        if any(searches.values()):
            _plot(searches).savefig(DOCS / f"search-cost-{regime}.png")
            lines += ["", f"## {regime}", "", _facts(searches), "", *table(searches)]
            lines += ["", f"![hypervolume over costs](search-cost-{regime}.png)"]
        if tuning.get(regime):
            lines += ["", "Tuning (mean validation of a few architectures, a seed of its own):", ""]
            lines += tuning[regime]
    if tau:
        lines += ["", "## Cheap rungs against full training", "", *tau_table(tau)]
    write_bytes(TABLE, ("\n".join(lines) + "\n").encode())
    print(f"wrote {path} and {TABLE}")
