"""What a section of a report is; `values.registers.SECTIONS` has all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nas_theseus.pictures.page import Piece
from nas_theseus.searches.records import Records


@dataclass(frozen=True)
class Section:
    """One section of a report.

    Attributes:
        title: its heading.
        place: sections stand in the order of these numbers.
        write: its text, tables and plots; in a search without any result, what is missing.
    """

    title: str
    place: int
    write: Callable[[Records], Sequence[Piece]]


def network_anchor(architecture: str) -> str:
    """Name of the heading of a front member, by the id of its architecture."""
    return f"network-{architecture}"
