"""How far a quality spreads over seeds, and which differences are more than this spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t  # type: ignore[import-untyped]

LEVEL = 0.05


@dataclass(frozen=True)
class Spread:
    """One quality of one network with several seeds.

    Attributes:
        values: the quality, one value a seed; at least one.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)

    @property
    def deviation(self) -> float:
        """The standard deviation, of a sample; NaN for a single value."""
        if len(self.values) < 2:
            return math.nan
        if len(set(self.values)) == 1:
            return 0.0  # exactly, which a sum of rounded squares is not
        return float(np.std(self.values, ddof=1))

    def __str__(self) -> str:
        """For people."""
        return f"{self.mean:.4g} ± {self.deviation:.2g} ({len(self.values)} seeds)"


def chance_of_difference(first: Spread, second: Spread) -> float:
    """Probability of such a difference between two means, or a larger one, by the seeds alone.

    Welch's test, two-sided. Where neither network spreads, which may be luck if few validation
    examples decide, the values are compared by their order instead: the share of all ways to deal
    them out that separates them as well.

    Returns:
        1.0 if a network has fewer than two values.

    Source: Welch 1947, Biometrika 34.
    """
    if min(len(first.values), len(second.values)) < 2:
        return 1.0
    if first.deviation == second.deviation == 0:
        if first.mean == second.mean:
            return 1.0
        count = len(first.values)
        return min(1.0, 2 / math.comb(count + len(second.values), count))
    variances = [one.deviation**2 / len(one.values) for one in (first, second)]
    statistic = (first.mean - second.mean) / math.sqrt(sum(variances))
    parts = [
        variance**2 / (len(one.values) - 1)
        for variance, one in zip(variances, (first, second), strict=True)
    ]
    return float(2 * t.sf(abs(statistic), sum(variances) ** 2 / sum(parts)))


def holm(probabilities: Sequence[float]) -> list[float]:
    """Probabilities of several tests, raised so that all are right together.

    Of tests that are called real below a level, none is wrong with a probability of one less the
    level.

    Source: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    order = sorted(range(len(probabilities)), key=lambda i: probabilities[i])
    raised = [0.0] * len(probabilities)
    least = 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, probabilities[i] * (len(order) - rank)))
        raised[i] = least
    return raised
