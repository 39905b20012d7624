"""Results of a comparison as matrices (row = sender, column = receiver), and their summaries."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas_theseus.stitching.cells import CONTROLS, Cell, Endpoint, cell_id

Rows = list[list[float | None]]


@dataclass(frozen=True)
class Comparison:
    """All measurements between two networks; `None` where boundaries cannot be stitched.

    Attributes:
        sender, receiver: labels of the networks.
        rows, columns: names of the parts after which each network was cut, in order; the first is
            boundary 1.
        quality: metric of the stitched networks by control; `start_quality` the same before
            training.
        cka: CKA by control.
        own: each trained network's own metric.
    """

    sender: str
    receiver: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    quality: Mapping[str, Rows]
    start_quality: Mapping[str, Rows]
    cka: Mapping[str, Rows]
    own: tuple[float, float]

    def triangle_difference(self, control: str = "trained-trained") -> float | None:
        """Mean quality where the sender is later, minus where it is earlier; None without both.

        A sender is later or earlier than the receiver by its share of the depth, so that networks
        of different depths can be compared. Source: Hernandez et al. 2023, section 1.5 (the draft's
        abstract says the reverse).
        """
        later: list[float] = []
        earlier: list[float] = []
        for i, row in enumerate(self.quality[control], start=1):
            for j, value in enumerate(row, start=1):
                where = i * (len(self.columns) + 1) - j * (len(self.rows) + 1)
                if value is not None and where:
                    (later if where > 0 else earlier).append(value)
        if not (later and earlier):
            return None
        return statistics.fmean(later) - statistics.fmean(earlier)

    def means(self) -> dict[str, float]:
        """Mean quality and CKA of each control over its cells."""
        found: dict[str, float] = {}
        for name, matrices in (("quality", self.quality), ("cka", self.cka)):
            for control, rows in matrices.items():
                values = [v for row in rows for v in row if v is not None]
                if values:
                    found[f"{name}/{control}"] = statistics.fmean(values)
        return found

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "triangle_difference": self.triangle_difference()}


def comparison(
    cells: Iterable[Cell],
    networks: tuple[str, str],
    parts: tuple[Sequence[str], Sequence[str]],
    own: tuple[float, float],
) -> Comparison:
    """Matrices from the cells of two networks; cells of other networks are ignored.

    Args:
        networks: labels of sender and receiver.
        parts: names of the parts before their inner boundaries.
        own: metrics of the trained networks themselves.
    """
    known = {cell.id: cell for cell in cells}

    def matrix(control: str, name: str) -> Rows:
        trained = CONTROLS[control]
        found: Rows = []
        for i in range(1, len(parts[0]) + 1):
            row = []
            for j in range(1, len(parts[1]) + 1):
                ends = (Endpoint(networks[0], trained[0], i), Endpoint(networks[1], trained[1], j))
                cell = known.get(cell_id(*ends))
                row.append(None if cell is None else float(getattr(cell, name)))
            found.append(row)
        return found

    def by_control(name: str) -> dict[str, Rows]:
        return {control: matrix(control, name) for control in CONTROLS}

    return Comparison(
        *networks,
        tuple(parts[0]),
        tuple(parts[1]),
        by_control("quality"),
        by_control("start_quality"),
        by_control("cka"),
        own,
    )
