"""Proposals: the architectures that a search evaluates, and who proposes them."""

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
    """Proposes architectures to the driver, and learns from results; see `services.optuna.study`.

    Attributes:
        refused: number of proposals that were not run, as a computable cost broke a constraint.
        duplicates: number of proposals of an architecture that was already proposed.
    """

    refused: int
    duplicates: int

    def propose(self) -> Proposal | None:
        """The next architecture to evaluate; None if nothing new was found.

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
