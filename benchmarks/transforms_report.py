"""Figures, table and plots of `benchmarks.transforms`, from its cells."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.record import figure_table, write_record
from nas_theseus.storage.whole_files import write_bytes
from nas_theseus.transforms.methods import DEEPENINGS, WIDENINGS

DOCS = Path(__file__).resolve().parent.parent / "docs" / "evidence"
TABLE = DOCS / "transforms-evidence.md"
Row = Mapping[str, Any]
NOT_RUN = "the cells it needs have not been run"
# Points that a net grown on its way may lack to count as the large net's equal.
WITHIN = 0.3
EXPERIMENTS = {
    "widen": "Wider by √2, ResNetCifar-18",
    "plain": "Wider by √2, without residual connections",
    "deepen": "Deeper, ResNetCifar-10 to -18",
    "grow": "Twice as wide on the way",
    "scale": "Scale of new weights (R2WiderR, one epoch at a tenth of the rate)",
    "overfit": "A teacher that has overfitted (2 000 images)",
    "tune": "Learning rate and weight decay, chosen on validation",
}
# Experiments whose nets are shown side by side.
COMPARED = ("widen", "plain", "deepen", "overfit")
PROMISING = {
    *(("widen", m.name) for m in WIDENINGS.values() if m.preserved_eval == "exactly"),
    *(("deepen", m.name) for m in DEEPENINGS.values() if m.preserved_eval != "no"),
    ("kernel", "netmorph"),
}


def _of(rows: Iterable[Row], experiment: str, method: str) -> list[Row]:
    return [r for r in rows if (r["experiment"], r["method"]) == (experiment, method)]


def _points(rows: Sequence[Row]) -> float | None:
    """Mean test accuracy in points."""
    return 100 * statistics.fmean(r["test"] for r in rows) if rows else None


def figures(
    rows: Sequence[Row], function: Sequence[Row], planned: int
) -> tuple[dict[str, float | int | None], dict[str, str]]:
    """The figures, and why those that are not whole are not.

    Args:
        planned: seeds that each cell is to have.
    """
    found: dict[str, float | int | None] = {}
    notes: dict[str, str] = {}
    for name in ("float32", "float64"):
        errors = [
            r["error"]
            for r in function
            if r["dtype"] == f"torch.{name}"
            and (r.get("transform"), r.get("method")) in PROMISING
            and "error" in r
        ]
        found[f"max_relative_error_{name}"] = max(errors, default=None)
    found["grown_macs_share"] = None
    large = _points(_of(rows, "grow", "scratch"))
    grown = {r["method"] for r in rows if r["experiment"] == "grow"} - {"scratch"}
    if large is not None and grown:
        costs = statistics.fmean(r["train_macs"] for r in _of(rows, "grow", "scratch"))
        shares = {
            statistics.fmean(r["train_macs"] for r in of) / costs: _points(of) or 0.0
            for method in grown
            if (of := _of(rows, "grow", method))
        }
        equal = [share for share, points in shares.items() if points >= large - WITHIN]
        found["grown_macs_share"] = min(equal, default=None)
        best = max(shares, key=shares.__getitem__)
        notes["grown_macs_share"] = (
            f"the least share within {WITHIN} points of {large:.2f}"
            if equal
            else f"none came within {WITHIN} points of {large:.2f}; the best has "
            f"{shares[best]:.2f} at a share of {best:.2f}"
        )
    for figure, experiment, method in (
        ("r2_wider_minus_scratch", "widen", "r2wider"),
        ("r2_deeper_minus_scratch", "deepen", "r2deeper"),
    ):
        own, scratch = (_points(_of(rows, experiment, m)) for m in (method, "scratch"))
        found[figure] = None if own is None or scratch is None else own - scratch
        seeds = min(len(_of(rows, experiment, m)) for m in (method, "scratch"))
        if 0 < seeds < planned:
            notes[figure] = f"{seeds} of {planned} seeds so far"
    return found, {n: NOT_RUN for n, value in found.items() if value is None} | notes


def _spread(rows: Sequence[Row], name: str) -> str:
    values = [100 * r[name] for r in rows if r[name] is not None]
    if not values:
        return "–"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.2f} ± {deviation:.2f}"


def table(rows: Sequence[Row], experiment: str, methods: Sequence[str]) -> list[str]:
    """One experiment's table: mean and standard deviation over seeds."""
    lines = [
        "| net | test accuracy, % | validation, % | validation before its training, % | train, % "
        "| parameters | MACs | training MACs | s | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method in methods:
        if found := _of(rows, experiment, method):
            begun = statistics.fmean(100 * r["curve"][0]["validation"] for r in found)
            lines.append(
                f"| {method} | {_spread(found, 'test')} | {_spread(found, 'validation')} "
                f"| {begun:.2f} | {_spread(found, 'train_accuracy')} "
                f"| {found[0]['params'] / 1e3:.1f} k | {found[0]['macs'] / 1e3:.0f} k "
                f"| {found[0]['train_macs'] / 1e9:.0f} G "
                f"| {statistics.fmean(r['seconds'] for r in found):.0f} | {len(found)} |"
            )
    return lines


def function_table(function: Sequence[Row]) -> list[str]:
    """The largest relative error of every method on every network; refusals by their reason."""
    networks = list(dict.fromkeys(r["network"] for r in function))
    lines = ["| transform | " + " | ".join(networks) + " |", "|---" * (len(networks) + 1) + "|"]
    reasons: dict[str, None] = {}
    for transform, method in dict.fromkeys(
        (r["transform"], r["method"]) for r in function if "transform" in r
    ):
        cells = []
        for network in networks:
            errors = {
                r["dtype"].removeprefix("torch."): r
                for r in function
                if (r["network"], r.get("transform"), r.get("method"))
                == (network, transform, method)
            }
            refused = [r["refused"] for r in errors.values() if "refused" in r]
            reasons |= dict.fromkeys(f"{transform} {method}, {network}: {said}" for said in refused)
            whole = " / ".join(f"{errors[d]['error']:.1g}" for d in errors if "error" in errors[d])
            cells.append("refused" if refused else whole or "–")
        promise = "" if (transform, method) in PROMISING else " (control)"
        lines.append(f"| {transform} {method}{promise} | " + " | ".join(cells) + " |")
    return [*lines, "", *(f"- {reason}" for reason in reasons)]


def steps_table(rows: Sequence[Row], experiment: str, methods: Sequence[str]) -> list[str]:
    """Validation accuracy after each number of steps that was scored."""
    found = {m: of for m in methods if (of := _of(rows, experiment, m))}
    steps = [p["steps"] for p in next(iter(found.values()))[0]["curve"]]
    lines = [
        "| validation, % after steps | " + " | ".join(map(str, steps)) + " |",
        "|---" * (len(steps) + 1) + "|",
    ]
    for method, of in found.items():
        means = (
            statistics.fmean(r["curve"][i]["validation"] for r in of) for i in range(len(steps))
        )
        lines.append(f"| {method} | " + " | ".join(f"{100 * mean:.1f}" for mean in means) + " |")
    return lines


def _curves(rows: Sequence[Row], experiment: str, methods: Sequence[str], x: str) -> Figure:
    """Validation accuracy over training, one line a seed and method; steps on a scale of log."""
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, method in enumerate(methods):
        for index, row in enumerate(_of(rows, experiment, method)):
            points = row["curve"]
            along = [p["macs"] / 1e9 if x == "macs" else p["steps"] for p in points]
            axes.plot(
                along,
                [100 * p["validation"] for p in points],
                color=f"C{number}",
                label=method if not index else None,
                alpha=0.8,
                linewidth=1.2,
            )
    axes.set_xlabel("training MACs, G" if x == "macs" else "steps")
    if x == "steps":
        axes.set_xscale("symlog")
    axes.set_ylabel("validation accuracy, %")
    low = min(
        (
            100 * p["validation"]
            for r in rows
            if r["experiment"] == experiment
            for p in r["curve"][2 if x == "macs" else 0 :]
        ),
        default=0,
    )
    axes.set_ylim(bottom=max(low - 2, 0))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return figure


def _dots(rows: Sequence[Row], methods: Mapping[str, Sequence[str]]) -> Figure:
    """Test accuracy of every net of the comparisons, one dot a seed."""
    compared = [e for e in COMPARED if any(r["experiment"] == e for r in rows)]
    figure = Figure(figsize=(3.6 * len(compared), 3), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for place, experiment in enumerate(compared):
        axes = figure.add_subplot(1, len(compared), place + 1)
        for height, method in enumerate(methods[experiment]):
            values = [100 * r["test"] for r in _of(rows, experiment, method)]
            axes.plot(values, [height] * len(values), "o", markersize=4, alpha=0.7)
        axes.set_yticks(range(len(methods[experiment])), methods[experiment], fontsize=7)
        axes.set_title(experiment, fontsize=9)
        axes.grid(alpha=0.3)
    return figure


def write(
    rows: Sequence[Row],
    function: Sequence[Row],
    seeds: Sequence[int],
    methods: Mapping[str, Sequence[str]],
) -> None:
    """``results/transforms.json``, ``docs/evidence/transforms-evidence.md`` and its plots."""
    found, notes = figures(rows, function, len(seeds))
    path = write_record(
        "transforms",
        found,
        [*function, *rows],
        seeds,
        notes,
        packages=("torch", "torchvision", "fvcore"),
    )
    lines = [
        "# Growing networks: what was measured",
        "",
        "Written by `python -m benchmarks.transforms --report` from "
        "`benchmarks/results/transforms.json`. How the methods differ by design is in "
        "[transforms.md](../guides/transforms.md).",
        "",
        *figure_table(found, notes),
    ]
    if function:
        lines += [
            "",
            "## The function stays",
            "",
            "max |student − teacher| over max |teacher| in eval mode on 8 inputs, in float32 / "
            "float64; several layers widened one after the other, those that a method refuses left "
            "out. EfficientNet-Lite0 has its published weights.",
            "",
            *function_table(function),
        ]
    if any(r["experiment"] in COMPARED for r in rows):
        _dots(rows, methods).savefig(DOCS / "transforms-quality.png")
        epochs, images = rows[0]["epochs"], rows[0]["images"]
        lines += [
            "",
            "## Students and nets from scratch",
            "",
            f"{images} images, {epochs} epochs for each teacher, each student and each net from "
            "scratch, which has its student's size and the teacher's recipe (a student has had its "
            "teacher's training, too). Test was read once a cell. Mean and standard deviation over "
            "seeds; one dot a seed:",
            "",
            "![](transforms-quality.png)",
        ]
    for experiment, title in EXPERIMENTS.items():
        if any(r["experiment"] == experiment for r in rows):
            lines += ["", f"### {title}", "", *table(rows, experiment, methods[experiment])]
            if experiment in ("grow", "scale"):
                name = f"transforms-{experiment}.png"
                along = "macs" if experiment == "grow" else "steps"
                if along == "steps":
                    lines += ["", *steps_table(rows, experiment, methods[experiment])]
                _curves(rows, experiment, methods[experiment], along).savefig(DOCS / name)
                lines += ["", f"![validation over training]({name})"]
    write_bytes(TABLE, ("\n".join(lines) + "\n").encode())
    print(f"wrote {path} and {TABLE}")
