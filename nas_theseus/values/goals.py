"""Goals of a search: objectives and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Direction: TypeAlias = Literal["maximize", "minimize"]
# Metrics are often computed in single precision: two values this close, as a share, are equal.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Objective:
    """A metric or cost that a search optimises.

    Attributes:
        name: name of a metric (``val_accuracy``) or a cost (``macs``).
        log: whether hypervolume uses the logarithm (base 10) of the value.
        reference: worst value that still counts. Default: derived from the guide.
    """

    name: str
    direction: Direction
    log: bool = False
    reference: float | None = None


@dataclass(frozen=True)
class Constraint:
    """A hard limit ``name <= limit`` (or ``>=``) on a metric or cost.

    Attributes:
        chance: whether the limit is what chance reaches (`tasks.floor`); a value that equals it,
            up to rounding, then violates it.
    """

    name: str
    operator: Literal["<=", ">="]
    limit: float
    chance: bool = False

    def violation(self, values: Mapping[str, float]) -> float:
        """How far the values miss the limit, as a share of it; 0 if it is met or not yet known."""
        if self.name not in values:
            return 0.0
        # Chance may be 0 up to rounding, of R² for example, of which nothing is a share.
        scale = max(abs(self.limit), 1e-2 if self.chance else 1e-12)
        over = values[self.name] - self.limit
        missed = over if self.operator == "<=" else -over
        return max(0.0, missed + (_ROUNDING * scale if self.chance else 0.0)) / scale

    def __str__(self) -> str:
        if self.chance:
            return f"{self.name} {self.operator[0]} {self.limit:g} (chance)"
        return f"{self.name} {self.operator} {self.limit:g}"


def plain_number(value: float) -> str:
    """A limit or cost as text for messages: ``1,234,567`` or ``0.00125``."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
