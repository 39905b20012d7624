"""Where a search gets its architectures from: proposals, which are given results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nas_theseus.values.architecture import Architecture
from nas_theseus.values.outcomes import Outcome


@dataclass(frozen=True)
class Proposal:
    """An architecture to evaluate, with the number of its trial in the study."""

    number: int
    architecture: Architecture


class Proposals(Protocol):
    """What the driver of a search asks for architectures; Optuna's study is the one there is.

    Attributes:
        refused: how many proposals broke a constraint by a computable cost, and were not run.
        duplicates: how many proposals meant an architecture that was already proposed.
    """

    refused: int
    duplicates: int

    def propose(self) -> Proposal | None:
        """The next architecture to evaluate; None when nothing new was found.

        Raises:
            ServiceError: the storage of the study cannot be used.
        """
        ...

    def report(self, proposal: Proposal, outcome: Outcome) -> None:
        """Save the outcome of a proposal, so that later proposals learn from it.

        Raises:
            ServiceError: the storage of the study cannot be used.
        """
        ...
