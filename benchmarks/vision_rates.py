"""Which rates the benchmark of vision networks tries, and which of them it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from benchmarks.cells import Row
from benchmarks.vision_fashion import CHAINED, LEVELS, SEARCHED
from benchmarks.vision_fashion import Cell as FashionCell
from benchmarks.vision_lite0 import Cell as Lite0Cell

SEEDS, TUNING_SEED = (0, 1, 2), 100
# Rates are tuned at two levels: what is narrow learns best with others than what is wide.
TUNING_LEVEL, LOW_TUNING_LEVEL, LOW_LEVELS = 0.3, 0.1, 0.2
# The grid goes on by factors of 2 while the best rate lies at its edge, up to these.
FASHION_RATES, FASHION_WITHIN = (1.5e-3, 3e-3, 6e-3), (3e-4, 3e-2)
LITE0_GRID, LITE0_WITHIN, LITE0_BUDGET = (1e-4, 3e-4, 1e-3), (2e-5, 1.3e-2), 0.6

FashionRows = Mapping[FashionCell, Row]
Lite0Rows = Mapping[Lite0Cell, Row]


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
    return (LOW_TUNING_LEVEL if level <= LOW_LEVELS else TUNING_LEVEL,)


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

    A chain has one rate for all its networks, and so has a search, whose level is 0: that of small
    ones, which it finds most.
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
