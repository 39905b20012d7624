"""The job that makes one architecture again, with another seed than its search's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas_theseus.values.architecture import Architecture


@dataclass(frozen=True)
class Repeat:
    """One architecture with another seed; blocks from the library stay the same.

    Attributes:
        seed: takes the place of the search's seed.
    """

    architecture: Architecture
    seed: int

    @property
    def id(self) -> str:
        return f"{self.architecture.id}-{self.seed}"

    @property
    def title(self) -> str:
        """Name in dashboards."""
        return f"seed {self.seed}, {self.architecture.title}"

    def outcome_name(self, recipe: str) -> str:
        """File name of its outcome, without the ending."""
        return f"{self.architecture.id}-{recipe}-{self.seed}"

    def to_json(self) -> dict[str, Any]:
        return {"architecture": self.architecture.to_json(), "seed": self.seed}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Repeat:
        return cls(Architecture.from_json(data["architecture"]), int(data["seed"]))
