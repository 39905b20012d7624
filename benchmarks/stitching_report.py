"""Figures, tables and plots of `benchmarks.stitching`, from its cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.record import figure_table, write_record
from nas_theseus.pictures.heatmap import heatmap_picture
from nas_theseus.storage.whole_files import write_bytes

DOCS = Path(__file__).resolve().parent.parent / "docs" / "evidence"
TABLE = DOCS / "stitching-evidence.md"
Row = Mapping[str, Any]
NOT_RUN = "the cells it needs have not been run"
DEFAULT = "least-squares"


def _of(rows: Sequence[Row], kind: str, name: str | None = None) -> list[Row]:
    return [r for r in rows if r["kind"] == kind and name in (None, r["name"])]


def individual_curve(rows: Sequence[Row], seed: int | None = None) -> list[tuple[int, float]]:
    """MACs and test accuracy of the nets trained by themselves; mean over seeds without one."""
    found: dict[int, list[float]] = {}
    for row in _of(rows, "net"):
        if seed in (None, row["seed"]):
            found.setdefault(row["macs"], []).append(row["test"])
    return [(macs, fmean(values)) for macs, values in sorted(found.items())]


def gaps(rows: Sequence[Row], variant: str = DEFAULT) -> list[tuple[str, int, int, float]]:
    """Name, MACs, seed and gap of every stitch, in points below an individual net of equal MACs.

    That net's accuracy is interpolated over the logarithm of MACs between nets of the same seed.
    """
    found = []
    for row in _of(rows, "stitchable", variant):
        curve = individual_curve(rows, row["seed"])
        if len(curve) < 2:
            continue
        logs, accuracies = [math.log(macs) for macs, _ in curve], [a for _, a in curve]
        for net in row["networks"]:
            if net["stitch"] is not None:
                expected = float(np.interp(math.log(net["macs"]), logs, accuracies))
                found.append(
                    (net["name"], net["macs"], row["seed"], 100 * (expected - net["test"]))
                )
    return found


def figures(
    rows: Sequence[Row], planned: int, net_examples: int
) -> tuple[dict[str, float | int | None], dict[str, str]]:
    """The figures and, for those that lack cells, why.

    Args:
        planned: seeds that each cell is to have.
        net_examples: three times the examples that training a net by itself sees: its MACs a MAC.
    """
    missed = [gap for *_, gap in gaps(rows)]
    default, kaiming = _of(rows, "stitchable", DEFAULT), _of(rows, "stitchable", "kaiming")
    shares = [
        r["train_macs"] / (net_examples * sum(n["macs"] for n in r["networks"])) for r in default
    ]
    started: float | None = None
    if default and kaiming:
        started = 100 * (fmean(map(_before, default)) - fmean(map(_before, kaiming)))
    triangles = [
        row["matrices"]["triangle_difference"]
        for row in _of(rows, "matrix")
        if row["matrices"]["triangle_difference"] is not None
    ]
    found: dict[str, float | int | None] = {
        "mean_gap_points": fmean(missed) if missed else None,
        "worst_gap_points": max(missed, default=None),
        "training_compute_share": fmean(shares) if shares else None,
        "select_ms": median(r["select_ms"] for r in default) if default else None,
        "largest_hole_share": largest_hole(default[0]["networks"]) if default else None,
        "least_squares_minus_kaiming": started,
        "triangle_difference": 100 * fmean(triangles) if triangles else None,
    }
    notes = {name: NOT_RUN for name, value in found.items() if value is None}
    seeds = len({r["seed"] for r in default})
    for name in [name for name in found if name not in notes]:
        if name == "triangle_difference":
            pairs = len({r["name"] for r in _of(rows, "matrix")})
            notes[name] = f"over {len(triangles)} matrices of {pairs} pairs of networks"
        elif seeds < planned:
            notes[name] = f"{seeds} of {planned} seeds so far"
    return found, notes


def _before(row: Row) -> float:
    return float(fmean(n["before"] for n in row["networks"] if n["stitch"] is not None))


def largest_hole(networks: Sequence[Mapping[str, Any]]) -> float:
    """Largest gap between neighbours in MACs, as a share of the range."""
    macs = sorted(net["macs"] for net in networks)
    return float(max(b - a for a, b in pairwise(macs)) / (macs[-1] - macs[0]))


def findings(rows: Sequence[Row]) -> list[str]:
    """The source's four findings, each with what was measured here."""
    cells = _of(rows, "matrix")
    if not cells:
        return ["Not measured yet."]

    def mean(control: str, where: Any) -> float:
        values = [
            value
            for row in cells
            for i, line in enumerate(row["matrices"]["quality"][control])
            for j, value in enumerate(line)
            if value is not None
            and where(
                (i + 1) / (len(row["matrices"]["rows"]) + 1),
                (j + 1) / (len(row["matrices"]["columns"]) + 1),
            )
        ]
        return 100 * fmean(values)

    whole = {control: mean(control, lambda i, j: True) for control in cells[0]["controls"]}
    later = mean("trained-trained", lambda i, j: i > j)
    earlier = mean("trained-trained", lambda i, j: i < j)
    late = mean("trained-random", lambda i, j: i > 0.5 and j > 0.5)
    not_late = mean("trained-random", lambda i, j: i <= 0.5 or j <= 0.5)
    early = mean("random-trained", lambda i, j: j <= 0.5)
    not_early = mean("random-trained", lambda i, j: j > 0.5)

    def verdict(held: bool) -> str:
        return "held" if held else "did not hold"

    low = whole["random-random"] < min(v for c, v in whole.items() if c != "random-random")
    return [
        "Each finding, and whether it held here (accuracy in %, mean over cells of all pairs and "
        "seeds; early and late are halves of the depth):",
        "",
        f"- *Trained → trained: the lower left triangle is high* (sender later than receiver): "
        f"{verdict(later > earlier)}. Sender later {later:.1f}, sender earlier {earlier:.1f}. The "
        "draft's abstract says the reverse of its matrices.",
        f"- *Random → random is uniformly low*: {verdict(low)} as the lowest of the four controls: "
        f"{whole['random-random']:.1f} against "
        + ", ".join(f"{c} {v:.1f}" for c, v in whole.items() if c != "random-random")
        + ".",
        f"- *Trained → random is high only late → late*: {verdict(late > not_late)}. Late → late "
        f"{late:.1f}, all others {not_late:.1f}.",
        f"- *Random → trained is high only for early receivers*: {verdict(early > not_early)}. "
        f"Early receivers {early:.1f}, late ones {not_early:.1f}.",
    ]


def _curve_plot(rows: Sequence[Row]) -> Figure:
    """Accuracy over MACs: stitches of every variant, and nets trained by themselves."""
    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for variant in dict.fromkeys(r["name"] for r in _of(rows, "stitchable")):
        found: dict[str, list[tuple[int, float]]] = {}
        for row in _of(rows, "stitchable", variant):
            for net in row["networks"]:
                found.setdefault(net["name"], []).append((net["macs"], net["test"]))
        dots = sorted((v[0][0], fmean(t for _, t in v)) for v in found.values())
        xs, ys = zip(*dots, strict=True)
        axes.plot(
            xs, [100 * y for y in ys], "o", markersize=4, alpha=0.7, label=f"stitches, {variant}"
        )
    curve = individual_curve(rows)
    if curve:
        xs, ys = zip(*curve, strict=True)
        axes.plot(xs, [100 * y for y in ys], "k-s", markersize=5, label="trained by themselves")
    axes.set_xlabel("MACs")
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def variants_table(rows: Sequence[Row]) -> list[str]:
    """One line a variant: stitches before and after training, mean over seeds."""
    lines = [
        "| variant | networks | before training, validation % | after, test % | mean gap | worst "
        "gap | training MACs | s | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for variant in dict.fromkeys(r["name"] for r in _of(rows, "stitchable")):
        found = _of(rows, "stitchable", variant)
        missed = [gap for *_, gap in gaps(rows, variant)]
        after = fmean(
            net["test"] for r in found for net in r["networks"] if net["stitch"] is not None
        )
        lines.append(
            f"| {variant} | {len(found[0]['networks'])} | {100 * fmean(map(_before, found)):.2f} "
            f"| {100 * after:.2f} | {fmean(missed):.2f} | {max(missed):.2f} "
            f"| {fmean(r['train_macs'] for r in found) / 1e12:.2f} T "
            f"| {fmean(r['seconds'] for r in found):.0f} | {len(found)} |"
            if missed
            else f"| {variant} | {len(found[0]['networks'])} | – | {100 * after:.2f} | – | – | – "
            f"| – | {len(found)} |"
        )
    return lines


def tuning_table(rows: Sequence[Row]) -> list[str]:
    """Mean validation accuracy by learning rate and batch size, with a seed of its own."""
    lines = ["| learning rate and batch size | validation, % |", "|---|---|"]
    return lines + [f"| {r['name']} | {100 * r['validation']:.2f} |" for r in _of(rows, "tune")]


def suggestions_table(rows: Sequence[Row]) -> list[str]:
    """Hypervolume after so many trials with suggestions and without, mean over seeds."""
    cells = _of(rows, "suggestions")
    if not cells:
        return ["Not measured yet."]
    lengths = [len(v) for row in cells for v in row["hypervolumes"].values()]
    after = [count for count in (2, 4, 8, 12) if count <= min(lengths)]
    lines = [
        "Hypervolume of a search after so many trials, the guide being the first (mean over "
        "seeds; the same candidates have the same results in both):",
        "",
        f"| sampler | begins with | {' | '.join(map(str, after))} | seeds |",
        "|---|---|" + "---|" * (len(after) + 1),
    ]
    for sampler in dict.fromkeys(row["name"] for row in cells):
        own = _of(rows, "suggestions", sampler)
        for name, told in (("with", "suggestions"), ("without", "its own proposals")):
            means = [fmean(row["hypervolumes"][name][n - 1] for row in own) for n in after]
            values = " | ".join(f"{mean:.4f}" for mean in means)
            lines.append(f"| {sampler} | {told} | {values} | {len(own)} |")
    return lines


def write(rows: Sequence[Row], seeds: Sequence[int], net_examples: float) -> None:
    """``results/stitching.json``, ``docs/evidence/stitching-evidence.md`` and its plots."""
    found, notes = figures(rows, len(seeds), int(net_examples))
    path = write_record("stitching", found, rows, seeds, notes, packages=("torch", "fvcore"))
    lines = [
        "# Stitching, measured",
        "",
        "Written by `python -m benchmarks.stitching --report` from "
        "`benchmarks/results/stitching.json`: Fashion-MNIST, ResNets, one thread a cell. "
        "`training_compute_share` leaves out the anchors' own training, as the source does; it "
        "has the teacher's logits and the statistics of batch norms. Gaps are on test, below the "
        "line through nets trained by themselves with the same seed; `worst_gap_points` is the "
        "worst stitch of any seed. `triangle_difference` is in points.",
        "",
        *figure_table(found, notes),
        "",
        "## Stitchable networks",
        "",
    ]
    DOCS.mkdir(exist_ok=True)
    if _of(rows, "stitchable"):
        _curve_plot(rows).savefig(DOCS / "stitching-curve.png")
        lines += [*variants_table(rows), "", "![accuracy over MACs](stitching-curve.png)", ""]
    if nets := individual_curve(rows):
        told = ", ".join(f"{macs / 1e6:.2f} M: {100 * test:.2f}" for macs, test in nets)
        lines += [f"Nets trained by themselves (MACs: test %, mean over seeds): {told}.", ""]
    if _of(rows, "tune"):
        lines += ["Chosen on validation, with a seed of its own:", "", *tuning_table(rows), ""]
    lines += ["## Similarity by stitching", "", *findings(rows), ""]
    for number, pair in enumerate(dict.fromkeys(r["name"] for r in _of(rows, "matrix"))):
        row = _of(rows, "matrix", pair)[0]
        matrices = row["matrices"]
        panels = [
            {f"accuracy, {c}": matrices["quality"][c] for c in row["controls"]},
            {f"CKA, {c}": matrices["cka"][c] for c in row["controls"]},
        ]
        title = f"{matrices['sender']} → {matrices['receiver']}, seed {row['seed']}"
        image = f"stitching-matrix-{number}.png"
        heatmap_picture(panels, matrices["rows"], matrices["columns"], title).savefig(DOCS / image)
        difference = matrices["triangle_difference"]
        told = (
            "" if difference is None else f" (sender later minus earlier {100 * difference:+.1f})"
        )
        lines += [f"{pair}{told}:", "", f"![{pair}]({image})", ""]
    lines += ["## Suggestions to a search", "", *suggestions_table(rows), ""]
    write_bytes(TABLE, ("\n".join(lines).rstrip() + "\n").encode())
    print(f"wrote {path} and {TABLE}")
