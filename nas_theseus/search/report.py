"""What a person sees in the terminal: live progress, the front, tables; drawn by rich."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas_theseus.search.progress import BlockCounts, State

MIN_BLOCKS = 10  # columns below which a list of blocks says nothing


class LiveReport:
    """Shows a running search: a live panel in a terminal, plain lines otherwise."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._last_line = 0.0
        self._began = time.monotonic()

    def say(self, message: str) -> None:
        self._console.print(message, highlight=False)

    def show(self, state: State) -> None:
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, refresh_per_second=4)
                self._live.start()
            self._live.update(self._panel(state))
        elif state.ended and time.monotonic() - self._last_line > 10:
            self._last_line = time.monotonic()
            self._console.print(self._line(state), highlight=False)

    def close(self, state: State | None = None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif state is not None:
            self._console.print(self._line(state), highlight=False)

    def _panel(self, state: State) -> Group:
        running = ", ".join(f"{name[:6]} {stage}" for name, stage in state.running.items())
        return Group(
            ProgressBar(total=state.wanted, completed=state.ended, width=60),
            Text(self._line(state)),
            Text(f"running: {running}" if running else "", style="dim"),
        )

    def _line(self, state: State) -> str:
        parts = [
            f"{state.done} of {state.wanted} done, {len(state.running)} running, "
            f"{state.stopped} stopped, {state.failed} failed",
            f"{state.refused} refused, {state.duplicates} known",
            *([] if state.blocks is None else [_blocks_line(state.blocks)]),
            f"front {state.front_size}, hypervolume {state.hypervolume:.4f}",
            *(f"best {name} {value:,.4g}" for name, value in state.best.items()),
            f"{time.monotonic() - self._began:.0f} s so far",
        ]
        if state.seconds_left is not None and state.running:
            parts.append(f"about {state.seconds_left:.0f} s left")
        return "; ".join(parts)


def _blocks_line(counts: BlockCounts) -> str:
    more = [f"{counts.running} running"] * bool(counts.running)
    more += [f"{counts.failed} failed"] * bool(counts.failed)
    return ", ".join([f"blocks {counts.converted} converted, {counts.reused} reused", *more])


def training_line(state: State) -> str:
    """What a search's conversions and training took in all."""
    line = f"training: {short_count(state.train_macs_spent)} MACs in all"
    counts = state.blocks
    if counts is None:
        return f"{line}; no library used"
    return (
        f"{line}; blocks: {counts.converted} converted ({short_count(counts.macs)} MACs, "
        f"{counts.seconds:.1f} s), {counts.reused} reused ({short_count(counts.reused_macs)} MACs, "
        f"{counts.reused_seconds:.1f} s saved), {counts.failed} failed"
    )


def rungs_line(state: State) -> str:
    """Who was stopped at rungs, and how far the rungs told the end."""
    if state.correlations:
        each = ", ".join(f"{rung} {tau:.2f}" for rung, tau in state.correlations.items())
        tau = f"Kendall's tau with the end: {each} ({state.compared} architectures)"
    else:
        tau = f"too few came through them for Kendall's tau ({state.compared})"
    saved = short_count(state.macs_saved)
    return f"rungs: {state.stopped} stopped, {saved} MACs saved; {tau}"


def front_table(rows: Sequence[Mapping[str, Any]], title: str, width: int) -> Table:
    """The front, one line a member; block lists are cut to the terminal, `--json` has all.

    Args:
        rows: as `front.front_rows` gives them.
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


def predicted_table(
    rows: Sequence[Mapping[str, Any]], metric: str, title: str, width: int
) -> Table:
    """Predictions, one line each, as `front_table`; rows as `budget.Answer.rows` gives them."""
    shown = []
    for row in rows:
        quality = f"{row[f'predicted_{metric}']:.4f} ± {row['deviation']:.4f}"
        costs = {name: row[name] for name in ("macs", "params")}
        stored, lacking = row["blocks_in_library"], row["blocks_to_convert"]
        shown.append(
            {"architecture": row["architecture"], f"predicted_{metric}": quality, **costs}
            | {"in_library": str(stored), "to_convert": str(lacking), "blocks": row["blocks"]}
        )
    return front_table(shown, title, width)


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
    if name in ("macs", "params", "train_macs_spent", "peak_memory_bytes"):
        return short_count(float(value))
    if name == "seconds":
        return f"{value:.1f}"
    return f"{value:.4f}"


def short_count(value: float) -> str:
    """1234567 as 1.23 M."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f}"


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column is text and the others are figures."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
