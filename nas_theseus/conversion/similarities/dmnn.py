"""Differentiable mutual nearest neighbours (D-MNN)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_theseus.conversion.features import SMALLEST_NORM, centred, full_precision, two_dimensional
from nas_theseus.conversion.prepared import RowSimilarity
from nas_theseus.errors import ConversionError, ShapeError


def mutual_neighbours(x: Tensor, y: Tensor, temperature: float = 0.1, k: int = 1) -> Tensor:
    """Differentiable mutual nearest neighbours (D-MNN), in [0, 1].

    In x and in y, each example has a distribution over the other examples: the softmax of cosine
    similarities (of centred features) over the temperature. The result is the mean over examples
    of the Bhattacharyya overlap of the two distributions. In the limit of temperature 0 it is the
    share of the k nearest neighbours that both spaces have in common (mutual kNN, Huh et al. 2024,
    arXiv:2405.07987). For k > 1, similarities above an example's k-th largest count as the k-th, so
    that the k nearest have equal weights.

    Ours: Network of Theseus (arXiv:2512.04198) names D-MNN, but its formula is not public.

    Args:
        x: features of N examples, shape (N, ...).
        y: features of the same N examples, shape (N, ...).
        temperature: temperature of the softmax, above 0.
        k: number of neighbours, from 1 to N - 1.

    Raises:
        ShapeError: N differs, N < 3, or k is not below N.
    """
    with full_precision(x):
        a, b = two_dimensional(x, y, minimum=3)
        guide = log_neighbours(centred(b), temperature, k)
        return overlap(log_neighbours(centred(a), temperature, k), guide)


def log_neighbours(rows: Tensor, temperature: float, k: int) -> Tensor:
    """Logarithm of each row's distribution over the other rows, (N, N), from centred rows.

    Raises:
        ShapeError: k is not below N.
    """
    if not 1 <= k < len(rows):
        raise ShapeError(f"k = {k} neighbours need more than {k} examples, got {len(rows)}")
    # A row equal to the mean has no direction; the floor keeps its gradient finite.
    unit = F.normalize(rows, dim=1, eps=SMALLEST_NORM)
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    alike = (unit @ unit.T).masked_fill(itself, -math.inf)
    if k > 1:
        alike = torch.minimum(alike, alike.topk(k, dim=1).values[:, -1:])
    return torch.log_softmax(alike / temperature, dim=1)


def overlap(log_x: Tensor, log_y: Tensor) -> Tensor:
    """Mean Bhattacharyya overlap of two sets of distributions, from their logarithms."""
    # exp of the mean of logarithms, since the square root has an infinite slope at 0.
    agreement: Tensor = (0.5 * (log_x + log_y)).exp().sum(1).mean()
    return agreement


@dataclass(frozen=True, kw_only=True)
class MutualNeighbours(RowSimilarity):
    """D-MNN as a training objective; see `mutual_neighbours`.

    Attributes:
        temperature: temperature of the softmax.
        k: number of neighbours.
    """

    name: ClassVar[str] = "dmnn"
    minimum_examples: ClassVar[int] = 3

    rows: int | None = 1024
    temperature: float = 0.1
    k: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_below_one("k")
        if not 0 < self.temperature < math.inf:
            raise ConversionError(
                f"similarity {self.name!r}: temperature must be above 0, not {self.temperature}"
            )

    @property
    def minimum_rows(self) -> int:
        return max(self.minimum_examples, self.k + 1)

    def guide_side(self, rows: Tensor) -> Tensor:
        return log_neighbours(rows, self.temperature, self.k)

    def compare(self, rows: Tensor, guide: Tensor) -> Tensor:
        return overlap(log_neighbours(rows, self.temperature, self.k), guide)


MEMBER = MutualNeighbours()
