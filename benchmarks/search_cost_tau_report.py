"""Kendall's τ of cheap rungs against full training, from the cells of `search_cost --tau`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import kendalltau  # type: ignore[import-untyped]

from nas_theseus.estimate.additive import AdditiveEstimate
from nas_theseus.values.architecture import Architecture

Row = Mapping[str, Any]
NAMES = ("tau_rung", "tau_ceiling", "tau_rung_over_ceiling", "tau_rung_cost_share")
# What the issue asks of the rung that a search decides by.
COST_SHARE = 1 / 20
FEW = 5


def _tau(first: Sequence[float], second: Sequence[float]) -> float:
    return float(kendalltau(first, second).statistic)


def _rungs(rows: Sequence[Row]) -> dict[str, tuple[list[float], float]]:
    """What each rung says of each architecture, and its share of full training's MACs."""
    full = statistics.fmean(one["macs"] for row in rows for one in row["full"])
    found: dict[str, tuple[list[float], float]] = {
        "block errors": ([-sum(row["errors"]) for row in rows], 0.0)
    }
    for name in rows[0]["rungs"]:
        spent = statistics.fmean(row["rungs"][name]["macs"] for row in rows)
        found[name] = ([row["rungs"][name]["validation"] for row in rows], spent / full)
    found["learned from the others' full training"] = (_learned(rows), 0.0)
    return found


def _learned(rows: Sequence[Row]) -> list[float]:
    """Each architecture's quality by the estimate that knows block errors and all the others."""
    architectures = [Architecture.from_json(row["choices"]) for row in rows]
    errors = {
        choice: error
        for row, architecture in zip(rows, architectures, strict=True)
        for choice, error in zip(architecture.choices, row["errors"], strict=True)
    }
    found = []
    for left_out, architecture in enumerate(architectures):
        estimate = AdditiveEstimate(architecture.stop, errors)
        for index, row in enumerate(rows):
            if index != left_out:
                estimate.update(architectures[index], row["full"][0]["validation"])
        found.append(float(estimate.predict([architecture])[0][0]))
    return found


def _full(rows: Sequence[Row]) -> list[list[float]]:
    """Validation of each full training, by seed."""
    return [[row["full"][seed]["validation"] for row in rows] for seed in (0, 1)]


def tau_figures(rows: Sequence[Row]) -> tuple[dict[str, float | int | None], dict[str, str]]:
    """The figures on τ, with notes."""
    count = len(rows)
    if count < FEW:
        reason = f"{count} architectures so far; run --tau"
        return dict.fromkeys(NAMES) | {"tau_architectures": count}, dict.fromkeys(NAMES, reason)
    full = _full(rows)
    ceiling = _tau(*full)
    measured = {
        name: (statistics.fmean(_tau(values, one) for one in full), share)
        for name, (values, share) in _rungs(rows).items()
        if name in rows[0]["rungs"] or name == "block errors"
    }
    cheap = {name: known for name, known in measured.items() if known[1] <= COST_SHARE}
    name, (tau, share) = max(cheap.items(), key=lambda item: item[1][0])
    values = (tau, ceiling, tau / ceiling, share)
    blocks = {id_: macs for row in rows for id_, macs in row["block_macs"].items()}
    spent = sum(one["macs"] for row in rows for one in row["full"]) / 2
    note = (
        f"rung: {name}, the best of those that cost at most 1/20; its blocks are converted once "
        f"for all ({len(blocks)} blocks, {100 * sum(blocks.values()) / spent:.1f} % of the full "
        "trainings' MACs) and not in its share"
    )
    found: dict[str, float | int | None] = dict(zip(NAMES, values, strict=True))
    return found | {"tau_architectures": count}, {"tau_rung": note}


def tau_table(rows: Sequence[Row]) -> list[str]:
    """Every rung: τ with each full training's mean, over its ceiling, its share of the cost."""
    count = len(rows)
    if count < FEW:
        return [f"{count} architectures so far."]
    full = _full(rows)
    ceiling = _tau(*full)
    noise = statistics.stdev(a - b for a, b in zip(*full, strict=True)) / 2**0.5
    macs = [row["macs"] for row in rows]
    lines = [
        f"{count} architectures at even steps of log MACs, {min(macs) / 1e6:.3f} to "
        f"{max(macs) / 1e6:.2f} M. Full: our recipe with {rows[0]['epochs']} epochs, validation "
        f"{min(full[0]):.3f} to {max(full[0]):.3f}. Ceiling, τ between two full trainings with "
        f"different seeds: {ceiling:.3f}; noise of one training: {100 * noise:.2f} points "
        "(standard deviation). A rung is a run of its own with its own learning-rate cycle.",
        "",
        "| rung | τ | over the ceiling | share of full training's MACs |",
        "|---|---|---|---|",
    ]
    for name, (values, share) in _rungs(rows).items():
        tau = statistics.fmean(_tau(values, one) for one in full)
        lines.append(f"| {name} | {tau:.3f} | {tau / ceiling:.3f} | {100 * share:.1f} % |")
    return lines
