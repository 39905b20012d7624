"""Tables of the terminal, drawn by rich."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from nas_theseus.searches.budget import Answer
from nas_theseus.searches.figures import short_count
from nas_theseus.searches.front_files import front_rows
from nas_theseus.searches.repeats import RepeatedFront

MIN_BLOCKS = 10  # columns below which a list of blocks says nothing


def front_table(rows: Sequence[Mapping[str, Any]], title: str, width: int) -> Table:
    """The front, one line a member; block lists are cut to the terminal, `--json` has all.

    Args:
        rows: as `searches.front_files.front_rows` gives them.
        width: columns of the terminal; in a narrow one names are broken at their underscores, and
            blocks are left out where there is no room for them.
    """
    left_out = ("pairing", "blocks", "train_macs_spent", "seconds", "run_id")
    names = [
        name
        for name in (rows[0] if rows else {})
        if name not in left_out and not name.endswith(("_p10", "_p90"))
    ]
    cells = [[figure(name, row.get(name)) for name in names] for row in rows]
    broken = [name.replace("_", "_\n") for name in names]
    headings = names if _room(names, cells, width) >= MIN_BLOCKS else broken
    room = _room(headings, cells, width)
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    if room >= MIN_BLOCKS:
        table.add_column("blocks", overflow="ellipsis", no_wrap=True, width=room)
        cells = [[*line, row["blocks"]] for row, line in zip(rows, cells, strict=True)]
    for line in cells:
        table.add_row(*line)
    return table


def predicted_table(found: Answer, title: str, width: int) -> Table:
    """Predictions, one line each, as `front_table`."""

    def expected(quality: float, deviation: float) -> dict[str, str]:
        if found.prior is not None:
            return {f"summed_{found.prior}": f"{quality:.4g}"}
        return {f"predicted_{found.metric}": f"{quality:.4f} ± {deviation:.4f}"}

    shown = []
    for one, row in zip(found.predicted, found.rows(), strict=True):
        shown.append(
            {
                "architecture": row["architecture"],
                **expected(one.quality, one.deviation),
                **one.costs,
                "in_library": str(one.stored),
                "to_convert": str(one.lacking),
                "blocks": row["blocks"],
            }
        )
    return front_table(shown, title, width)


def repeated_rows(found: RepeatedFront) -> list[dict[str, Any]]:
    """The front as rows for `front_table`, with the spread of each member's quality."""
    rows = []
    for one, row in zip(found.members, front_rows([m.member for m in found.members]), strict=True):
        spread = "-"
        if one.spread is not None:
            spread = f"{one.spread.mean:.4g} ± {one.spread.deviation:.2g}"
        failed = {"failed": str(one.failed)} if any(m.failed for m in found.members) else {}
        first = {"architecture": row["architecture"], f"{found.metric}_repeated": spread, **failed}
        rows.append(first | row)
    return rows


def difference_lines(found: RepeatedFront) -> list[str]:
    """What the repeats say of neighbours on the front, a line each, and what they do not say."""
    count = len(found.seeds)
    lines = []
    for one in found.differences:
        pair = f"{one.first} and {one.second}: {found.metric} differs by {one.difference:+.4g}"
        if one.is_real:
            lines.append(f"{pair}: real (p = {one.probability:.2g})")
        else:
            lines.append(f"{pair}: not told apart with {count} seeds (p = {one.probability:.2g})")
    if not lines:
        lines.append("fewer than two networks have two results, so nothing can be compared")
    if found.is_constant:
        lines.append("no result depends on the seed: nothing is trained after the library's blocks")
    return [
        *lines,
        "means are of the other seeds only, as the search chose these networks by its own; blocks "
        "of the library and the validation examples are the same for all seeds",
    ]


def _room(headings: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> int:
    """Columns of the terminal left for one more column; every column has 3 of border and space."""
    columns = zip(headings, *cells, strict=True)
    taken = [max(len(line) for text in column for line in text.split("\n")) for column in columns]
    return width - 1 - sum(length + 3 for length in taken) - 3


def figure(name: str, value: Any) -> str:
    """A number as people read it: counts in thousands, seconds with unit, shares with digits."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if name == "seconds":
        return f"{value:.1f}"
    # Counts are whole numbers; a cost of the user's own may be large and none.
    if isinstance(value, int) or abs(value) >= 1e4:
        return short_count(value)
    return f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3g}"


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column is text and the others are figures."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
