"""Progress of a running search in a terminal or notebook, drawn by rich."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from nas_theseus.searches.figures import left_out, short_count
from nas_theseus.searches.status import BlockCounts, Status
from nas_theseus.values.outcomes import Failure

LINE_EVERY_S = 10.0


class LiveReport:
    """Shows a running search: a live panel in a terminal or notebook, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._last_line = 0.0
        self._began = time.monotonic()

    def say(self, message: str) -> None:
        """One line."""
        self._console.print(message, highlight=False)

    def show(self, status: Status) -> None:
        """Update the panel; without a panel, print a line at most every `LINE_EVERY_S` seconds."""
        if self._console.is_terminal or self._console.is_jupyter:
            if self._live is None:
                self._live = Live(console=self._console, refresh_per_second=4)
                self._live.start()
            self._live.update(self._panel(status))
        elif status.progress.ended and time.monotonic() - self._last_line > LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._console.print(self._line(status), highlight=False)

    def close(self, status: Status | None = None) -> None:
        """Stop the panel; if there was none, print the last status."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif status is not None:
            self._console.print(self._line(status), highlight=False)

    def _panel(self, status: Status) -> Group:
        running = ", ".join(f"{name[:6]} {stage}" for name, stage in status.running.items())
        return Group(
            ProgressBar(total=status.wanted, completed=status.progress.ended, width=60),
            Text(self._line(status)),
            Text(f"running: {running}" if running else "", style="dim"),
        )

    def _line(self, status: Status) -> str:
        now = status.progress
        parts = [
            f"{now.done} of {status.wanted} done, {len(status.running)} running, "
            f"{now.stopped} stopped, {now.failed} failed",
            f"{status.refused} refused, {status.duplicates} known",
            *([] if status.blocks is None else [_blocks_line(status.blocks)]),
            f"front {len(now.front)}, hypervolume {now.hypervolume:.4f}",
            *([left_out(now.at_chance)] if now.at_chance else []),
            *(f"best {name} {value:,.4g}" for name, value in now.best.items()),
            f"{time.monotonic() - self._began:.0f} s so far",
        ]
        if status.seconds_left is not None and status.running:
            parts.append(f"about {status.seconds_left:.0f} s left")
        return "; ".join(parts)


def _blocks_line(counts: BlockCounts) -> str:
    more = [f"{counts.running} running"] * bool(counts.running)
    more += [f"{counts.failed} failed"] * bool(counts.failed)
    return ", ".join([f"blocks {counts.converted} converted, {counts.reused} reused", *more])


def training_line(status: Status) -> str:
    """Total work of a search's conversions and training."""
    line = f"training: {short_count(status.train_macs_spent)} MACs in all"
    counts = status.blocks
    if counts is None:
        return f"{line}; no library used"
    return (
        f"{line}; blocks: {counts.converted} converted ({short_count(counts.macs)} MACs, "
        f"{counts.seconds:.1f} s), {counts.reused} reused ({short_count(counts.reused_macs)} MACs, "
        f"{counts.reused_seconds:.1f} s saved), {counts.failed} failed"
    )


def rungs_line(status: Status) -> str:
    """How many candidates were stopped, and how well the rungs predicted final quality."""
    now = status.progress
    if now.correlations:
        each = ", ".join(f"{rung} {tau:.2f}" for rung, tau in now.correlations.items())
        tau = f"Kendall's tau with final quality: {each} ({now.compared} architectures)"
    else:
        tau = f"too few candidates finished for Kendall's tau ({now.compared})"
    saved = short_count(now.macs_saved)
    return f"rungs: {now.stopped} stopped, {saved} MACs saved; {tau}"


def failure_lines(failures: Sequence[Failure], most: int = 5) -> list[str]:
    """Why candidates failed, each reason once, the most frequent first."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for failure in failures:
        reason = (failure.stage, failure.message)
        by_reason.setdefault(reason, []).append(failure.architecture.id)
    ranked = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    lines = [
        f"failed: {len(names)} of {len(failures)} in step {stage!r}: {message} "
        f"(architecture {names[0]}{' and others' if len(names) > 1 else ''})"
        for (stage, message), names in ranked[:most]
    ]
    if len(ranked) > most:
        lines.append(f"failed: {len(ranked) - most} more reasons in the evaluations/ folder")
    return lines
