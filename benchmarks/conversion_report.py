"""Figures, table and plots of `benchmarks.conversion`, from its cells."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.conversion_pairs import PAIRS
from benchmarks.record import RESULTS, figure_table, write_record
from nas_theseus.storage.whole_files import write_bytes

DOCS = Path(__file__).resolve().parent.parent / "docs" / "evidence"
TABLE = DOCS / "conversion.md"
Row = Mapping[str, Any]
# What the names of methods with the later settings end in.
SMALL = ", small batches"
NOT_RUN = "the cells it needs have not been run"


def _is_text(pair: str) -> bool:
    """Whether a pair is measured by perplexity, where less is better."""
    return PAIRS[pair].metric == "perplexity"


def _of(rows: Iterable[Row], pair: str, method: str, **wanted: Any) -> list[Row]:
    wanted = {"trained": True, "share": 1.0, **wanted}
    return [
        row
        for row in rows
        if (row["pair"], row["method"]) == (pair, method)
        and row["test"] is not None
        and all(row[name] == value for name, value in wanted.items())
    ]


def _mean(rows: Sequence[Row], name: str) -> float | None:
    return statistics.fmean(row[name] for row in rows) if rows else None


def best_methods(
    rows: Iterable[Row], pair: str, among: Collection[str], count: int, **wanted: Any
) -> list[str]:
    """The methods with the best mean validation on a pair, with a trained guide at full compute.

    Args:
        wanted: columns of other cells, such as ``share=0.25``.
    """
    known = list(rows)
    scored = []
    for method in among:
        found = _of(known, pair, method, **wanted)
        value = _mean(found, "validation")
        if value is not None:
            scored.append((value if _is_text(pair) else -value, method))
    return [method for _, method in sorted(scored)[:count]]


def figures(
    rows: Sequence[Row], ours: Collection[str], pairs: Sequence[str], planned: int
) -> tuple[dict[str, float | int | None], dict[str, str]]:
    """The figures and, for those that lack cells, why.

    Args:
        planned: seeds that each method is to have.
    """
    found: dict[str, float | int | None] = {}

    def tested(pair: str, method: str | None, **wanted: Any) -> float | None:
        return None if method is None else _mean(_of(rows, pair, method, **wanted), "test")

    wins = []
    over_naive: list[float | None] = []
    few: dict[str, str] = {}
    for pair in pairs:
        best = next(iter(best_methods(rows, pair, ours, 1)), None)
        # Of a control with old and new settings, too, validation takes the better.
        scratch_at, kd_at, naive_at = (
            next(iter(best_methods(rows, pair, [m, f"{m}{SMALL}"], 1)), None)
            for m in ("scratch", "kd", "naive")
        )
        own, scratch, kd, naive = (tested(pair, m) for m in (best, scratch_at, kd_at, naive_at))
        if not _is_text(pair):
            over_naive.append(None if own is None or naive is None else 100 * (own - naive))
        tried = {row["method"] for row in rows if row["share"] == 0.25}
        cheap = next(iter(best_methods(rows, pair, sorted(tried), 1, share=0.25)), None)
        quarter = tested(pair, cheap, share=0.25)
        text = _is_text(pair)
        for name, other in (("scratch", scratch), ("kd", kd)):
            key = f"{pair}.perplexity_over_{name}" if text else f"{pair}.best_minus_{name}"
            known = own is not None and other is not None
            found[key] = (own / other if text else 100 * (own - other)) if known else None  # type: ignore[operator]
        compared = (best, scratch_at, kd_at, naive_at)
        seeds = min((len(_of(rows, pair, m)) for m in compared if m), default=0)
        if 0 < seeds < planned:
            few |= {key: f"{seeds} of {planned} seeds so far" for key in found if pair in key}
        if pair == "resnet_to_resnet":
            guide = next((row["guide_test"] for row in _of(rows, pair, best or "")), None)
            found[f"{pair}.share_of_guide"] = own / guide if own and guide else None
        if quarter is not None and scratch is not None:
            wins.append(quarter < scratch if text else quarter > scratch)
    first = pairs[0]
    best = next(iter(best_methods(rows, first, ours, 1, trained=False)), None)
    scratch_at = next(iter(best_methods(rows, first, ["scratch", f"scratch{SMALL}"], 1)), None)
    own, scratch = tested(first, best, trained=False), tested(first, scratch_at)
    known = own is not None and scratch is not None
    found["untrained_guide.best_minus_scratch"] = 100 * (own - scratch) if known else None  # type: ignore[operator]
    found["quarter_compute_wins"] = sum(wins) if len(wins) == len(pairs) else None
    known_gains = [gain for gain in over_naive if gain is not None]
    whole = len(known_gains) == len(over_naive) > 0
    found["best_minus_naive"] = statistics.fmean(known_gains) if whole else None
    found["cka_step_share"] = _cka_step_share()
    notes = {
        n: NOT_RUN if value is None else few[n]
        for n, value in found.items()
        if value is None or n in few
    }
    if notes.get("quarter_compute_wins") and wins:
        notes["quarter_compute_wins"] = f"{sum(wins)} of the {len(wins)} pairs run so far"
    return found, notes


def _cka_step_share() -> float | None:
    path = RESULTS / "cka_step.json"
    return json.loads(path.read_text())["figures"]["cka_step_share"] if path.exists() else None


def _spread(rows: Sequence[Row], name: str, text: bool) -> str:
    values = [row[name] for row in rows]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    if text:
        return f"{statistics.fmean(values):.3f} ± {deviation:.3f}"
    return f"{100 * statistics.fmean(values):.2f} ± {100 * deviation:.2f}"


def table(rows: Sequence[Row], pair: str, methods: Sequence[str]) -> list[str]:
    """One pair's table: mean and standard deviation over seeds."""
    text = _is_text(pair)
    quality = "perplexity" if text else "accuracy, %"
    lines = [
        f"| method | guide | compute | test {quality} | validation | of the guide's | parameters "
        "| MACs | latency, ms | training MACs | s | epochs | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for trained, share in ((True, 1.0), (True, 0.25), (False, 1.0)):
        for method in methods:
            found = _of(rows, pair, method, trained=trained, share=share)
            if not found:
                continue
            guide = found[0]["guide_test"]
            mean = _mean(found, "test") or math.nan
            kept = guide / mean if text else mean / guide
            lines.append(
                f"| {method} | {'trained' if trained else 'untrained'} | {share:g} "
                f"| {_spread(found, 'test', text)} | {_spread(found, 'validation', text)} "
                f"| {f'{100 * kept:.1f} %' if trained else '–'} "
                f"| {found[0]['params'] / 1e3:.1f} k | {found[0]['macs'] / 1e6:.2f} M "
                f"| {statistics.fmean(row['latency_ms'][1] for row in found):.2f} "
                f"| {(_mean(found, 'train_macs') or 0) / 1e9:.0f} G "
                f"| {_mean(found, 'seconds') or 0:.0f} "
                f"| {_mean(found, 'epochs') or 0:.2f} | {len(found)} |"
            )
    return lines


def tuned(rows: Iterable[Row], pair: str, seed: int) -> list[str]:
    """What tuning gave, on validation: learning rate (and second setting) of each method."""
    found: dict[str, list[tuple[float, float, float | None]]] = {}
    for row in rows:
        if (row["pair"], row["seed"]) == (pair, seed):
            tried = (row["learning_rate"], row["second"], row["validation"])
            where = "" if row["trained"] else ", untrained guide"
            where += "" if row["share"] == 1 else f", {row['share']:g} of the compute"
            found.setdefault(row["method"] + where, []).append(tried)
    if not found:
        return []
    return [
        "Tuning (validation, a seed of its own; learning rate, in brackets the weight of the "
        "guide's logits or the share of compute for alignment):",
        "",
        *(
            f"- {method}: "
            + ", ".join(
                f"{rate:g}{f' ({second:g})' if second else ''}: "
                + ("failed" if value is None else f"{value:.4f}")
                for rate, second, value in sorted(tried)
            )
            for method, tried in found.items()
        ),
    ]


def _similarity_plot(rows: Sequence[Row], pair: str, methods: Sequence[str]) -> Figure | None:
    """One minus similarity of every part over stages, log scale: the source's figure 5."""
    chosen = [(m, _of(rows, pair, m)) for m in methods]
    chosen = [(m, found) for m, found in chosen if found and found[0]["similarity"]][:4]
    if not chosen:
        return None
    figure = Figure(figsize=(4 * len(chosen), 3.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for index, (method, found) in enumerate(chosen):
        axes = figure.add_subplot(1, len(chosen), index + 1)
        curves: dict[int, list[tuple[int, float]]] = {}
        for name, step, value in found[0]["similarity"]:
            kind, _, part = name.partition("/")
            if kind == "similarity":
                curves.setdefault(int(part), []).append((step, max(1e-4, 1 - value)))
        for part, points in sorted(curves.items()):
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=f"block {part}")
        axes.set_yscale("log")
        axes.set_title(method, fontsize=9)
        axes.set_xlabel("stage")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("1 − similarity")
    figure.axes[-1].legend(fontsize=6)
    return figure


def _quality_plot(rows: Sequence[Row], pairs: Sequence[str], methods: Sequence[str]) -> Figure:
    """Test quality of every method on every pair, one dot a seed."""
    figure = Figure(figsize=(4 * len(pairs), 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for index, pair in enumerate(pairs):
        axes = figure.add_subplot(1, len(pairs), index + 1)
        shown = [m for m in methods if _of(rows, pair, m)]
        for place, method in enumerate(shown):
            values = [row["test"] for row in _of(rows, pair, method)]
            axes.plot(values, [place] * len(values), "o", markersize=4, alpha=0.7)
        if shown:
            guide = _of(rows, pair, shown[0])[0]["guide_test"]
            axes.axvline(guide, color="gray", linestyle="--", linewidth=1)
        axes.set_yticks(range(len(shown)), shown, fontsize=7)
        axes.set_title(pair, fontsize=9)
        axes.grid(alpha=0.3)
    return figure


def write(
    rows: Sequence[Row],
    seeds: Sequence[int],
    tuning_seed: int,
    ours: Sequence[str],
    methods: Sequence[str],
    pairs: Sequence[str],
) -> None:
    """``results/conversion.json``, ``docs/evidence/conversion.md`` and its plots."""
    found, notes = figures(rows, ours, pairs, len(seeds))
    path = write_record(
        "conversion", found, rows, [*seeds, tuning_seed], notes, packages=("torch", "fvcore")
    )
    lines = [
        "# Conversion against its controls",
        "",
        "Written by `python -m benchmarks.conversion --report` from "
        "`benchmarks/results/conversion.json`; every number is a mean over seeds with its standard "
        "deviation, at equal training compute (alignment, the guide's activations and teaching "
        "charged; similarities and least squares not). "
        "Settings were chosen on validation; test was read once a cell.",
        "",
        *figure_table(found, notes),
    ]
    DOCS.mkdir(exist_ok=True)
    if rows:
        _quality_plot(rows, pairs, methods).savefig(DOCS / "conversion-quality.png")
        lines += ["", "One dot a seed, dashed the guide:", "", "![](conversion-quality.png)"]
    for pair in pairs:
        of_pair = [row for row in rows if row["pair"] == pair and row["test"] is not None]
        if not of_pair:
            continue
        guide = of_pair[0]
        lines += [
            "",
            f"## {pair}",
            "",
            f"Guide: test {guide['guide_test']:.4f}, validation {guide['guide_validation']:.4f}. "
            f"Budget {guide['budget_macs'] / guide['share'] / 1e9:.0f} G training MACs.",
            "",
            *table(rows, pair, methods),
            "",
            *tuned(rows, pair, tuning_seed),
        ]
        figure = _similarity_plot(rows, pair, ours)
        if figure is not None:
            figure.savefig(DOCS / f"conversion-{pair}.png")
            lines += ["", f"![similarity per block over stages](conversion-{pair}.png)"]
    write_bytes(TABLE, ("\n".join(lines) + "\n").encode())
    print(f"wrote {path} and {TABLE}")
