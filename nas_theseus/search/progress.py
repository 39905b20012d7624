"""Where a search is, and who shows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class BlockCounts:
    """The blocks of a search, each counted once.

    Attributes:
        converted: by this search, for so many MACs and seconds.
        reused: found in the library; their MACs and seconds were spent by whoever made them.
        failed: those that could not be converted.
        running: being converted now.
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
        """As the search's own metrics."""
        named = asdict(self)
        del named["running"]
        return {f"blocks_{name}": float(value) for name, value in named.items()}


@dataclass
class State:
    """Where a search is, for those who show it.

    Attributes:
        blocks: None where no library is used.
        train_macs_spent: by all candidates and blocks of the search.
        stopped: at a rung; they are not among those done.
        macs_saved: by stopping them.
        correlations: Kendall's τ of each rung with the end, over `compared` candidates.
    """

    name: str
    wanted: int
    done: int = 0
    failed: int = 0
    running: dict[str, str] = field(default_factory=dict)
    refused: int = 0
    duplicates: int = 0
    hypervolume: float = 0.0
    front_size: int = 0
    best: dict[str, float] = field(default_factory=dict)
    seconds_left: float | None = None
    ended_because: str = ""
    blocks: BlockCounts | None = None
    train_macs_spent: int = 0
    stopped: int = 0
    macs_saved: int = 0
    correlations: dict[str, float] = field(default_factory=dict)
    compared: int = 0

    @property
    def ended(self) -> int:
        """Trials of which the search knows what came of them."""
        return self.done + self.stopped + self.failed


class Reporter(Protocol):
    """Who shows a search while it runs."""

    def say(self, message: str) -> None:
        """One line about what happens next."""

    def show(self, state: State) -> None:
        """The search's state changed."""
