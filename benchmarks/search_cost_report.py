"""Figures, tables and plots of `benchmarks.search_cost`, from its cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


def told(row: Row) -> str:
    """A cell in one line."""
    if "validation" in row:
        return f"validation {row['validation']:.4f}"
    last = row["trajectory"][-1]
    return f"{last['train_macs'] / 1e9:,.0f} G MACs, {last['core_seconds']:,.0f} core-seconds"
