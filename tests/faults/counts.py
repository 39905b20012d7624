"""What was killed and what came of it, one count a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Fault:
    """What one test did and found.

    Attributes:
        kills: processes and nodes killed or stopped.
        finished: trials that had finished by then, summed over kills.
        lost, doubled: of them, those that were gone afterwards, or recorded twice.
        left_running: runs or trials left RUNNING at the end.
        commit: what it ran at.
    """

    name: str
    kills: int = 0
    finished: int = 0
    lost: int = 0
    doubled: int = 0
    left_running: int = 0
    passed: bool = False
    commit: str = ""


FAULTS: list[Fault] = []  # of this run of the tests

FIGURES = ("kills", "lost", "doubled", "left_running")


def latest(cells: Sequence[Fault]) -> list[Fault]:
    """The last of each test's counts, where its first stood."""
    return list({cell.name: cell for cell in cells}.values())


def figures(cells: Sequence[Fault]) -> dict[str, int]:
    """Sums over all tests."""
    return {name: sum(getattr(cell, name) for cell in cells) for name in FIGURES}


BEGIN, END = "<!-- table -->", "<!-- end of table -->"


def write_table(page: Path, cells: Sequence[Fault]) -> None:
    """Put the table of one run between a page's two marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = ["| fault | kills | finished by then | lost | doubled | left running | |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for cell in cells:
        name = cell.name.removeprefix("test_").replace("_", " ")
        numbers = (cell.kills, cell.finished, cell.lost, cell.doubled, cell.left_running)
        told = "" if cell.passed else "failed"
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} | {told} |")
    page.write_text("\n".join([before + BEGIN, *lines, END]) + after)
