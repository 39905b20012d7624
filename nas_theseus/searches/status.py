"""The state of a search, and the protocol of those that show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class BlockCounts:
    """The blocks of a search, each counted once.

    Attributes:
        converted: number converted by this search, which took `macs` and `seconds`.
        reused: number found in the library; converting them took `reused_macs` and
            `reused_seconds` before.
        failed: number that could not be converted.
        running: number being converted now.
    """

    converted: int = 0
    reused: int = 0
    failed: int = 0
    running: int = 0
    macs: int = 0
    seconds: float = 0.0
    reused_macs: int = 0
    reused_seconds: float = 0.0

    def metrics(self) -> dict[str, float]:
        """As metrics of the search itself."""
        named = asdict(self)
        del named["running"]
        return {f"blocks_{name}": float(value) for name, value in named.items()}


@dataclass(frozen=True)
class Progress:
    """The part of the state that changes only when a trial ends.

    Attributes:
        best: the best value of each objective on the front.
        train_macs: multiply-adds spent by all candidates.
        seconds: of all candidates' own work.
        macs_saved: multiply-adds saved by stopping candidates early.
        at_chance: number of finished candidates that are left out of the front because they are no
            better than chance.
        correlations: Kendall's τ of each rung with final quality, over `compared` candidates.
    """

    done: int = 0
    stopped: int = 0
    failed: int = 0
    front: tuple[str, ...] = ()
    hypervolume: float = 0.0
    best: Mapping[str, float] = field(default_factory=dict)
    train_macs: int = 0
    seconds: float = 0.0
    macs_saved: int = 0
    at_chance: int = 0
    correlations: Mapping[str, float] = field(default_factory=dict)
    compared: int = 0

    @property
    def ended(self) -> int:
        """Number of trials with an outcome."""
        return self.done + self.stopped + self.failed


@dataclass(frozen=True)
class Status:
    """The state of a search.

    Attributes:
        wanted: number of trials, those of earlier launches included.
        running: stage of each open architecture, by its id.
        refused, duplicates: numbers of proposals that broke a limit, or were already known.
        blocks: None where no library is used.
        seconds_left: estimated from the trials so far; None before the first.
    """

    name: str
    wanted: int
    progress: Progress
    running: Mapping[str, str]
    refused: int = 0
    duplicates: int = 0
    blocks: BlockCounts | None = None
    seconds_left: float | None = None

    @property
    def train_macs_spent(self) -> int:
        """Multiply-adds spent by all candidates and blocks of the search."""
        return self.progress.train_macs + (self.blocks.macs if self.blocks else 0)

    def metrics(self) -> dict[str, float]:
        """Metrics of the search itself, as trackers record them."""
        now = self.progress
        return {
            "hypervolume": now.hypervolume,
            "front_size": float(len(now.front)),
            "trials_done": float(now.done),
            "trials_failed": float(now.failed),
            "trials_stopped": float(now.stopped),
            "trials_at_chance": float(now.at_chance),
            "train_macs_spent": float(self.train_macs_spent),
            "train_macs_saved": float(now.macs_saved),
            **{f"tau_{rung}": tau for rung, tau in now.correlations.items()},
            "tau_architectures": float(now.compared),
            **({} if self.blocks is None else self.blocks.metrics()),
        }


class Reporter(Protocol):
    """Shows a search while it runs."""

    def say(self, message: str) -> None:
        """Show one line."""

    def show(self, status: Status) -> None:
        """The search's status changed."""
