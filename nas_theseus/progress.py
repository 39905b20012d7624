"""Where a search is, and who shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass
class State:
    """Where a search is, for those who show it."""

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


class Reporter(Protocol):
    """Who shows a search while it runs."""

    def say(self, message: str) -> None:
        """One line about what happens next."""

    def show(self, state: State) -> None:
        """The search's state changed."""
