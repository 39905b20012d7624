"""Linear centred kernel alignment (CKA)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nas_theseus.conversion.features import SMALLEST_NORM, centred, full_precision, two_dimensional
from nas_theseus.conversion.prepared import RowSimilarity


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment of two sets of features, in [0, 1].

    Uses the Gram form (N x N) or the feature form (D x E), whichever is cheaper for the shapes.

    Args:
        x: features of N examples, shape (N, ...); flattened to (N, D).
        y: features of the same N examples, shape (N, ...); flattened to (N, E).

    Returns:
        Scalar tensor, differentiable in both arguments; 0 where either is constant.

    Raises:
        ShapeError: N differs, or N < 2.

    Source: Kornblith et al. 2019, arXiv:1905.00414, equation 3 and section 3.
    """
    with full_precision(x):
        a, b = (centred(features) for features in two_dimensional(x, y, minimum=2))
        return biased_cka(a, b, None, biased_norm(b))


def biased_norm(rows: Tensor) -> Tensor:
    """Frobenius norm of the Gram matrix of centred rows, by the smaller of its two forms."""
    smaller = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    norm: Tensor = torch.linalg.norm(smaller).clamp_min(SMALLEST_NORM)
    return norm


def biased_cka(x: Tensor, y: Tensor, gram: Tensor | None, norm: Tensor) -> Tensor:
    """CKA of centred rows, with y's `biased_norm` and, if known, its Gram matrix."""
    if len(x) <= x.shape[1] + y.shape[1]:
        kernel = x @ x.T
        shared = (kernel * (y @ y.T if gram is None else gram)).sum()
    else:
        kernel = x.T @ x
        shared = (y.T @ x).square().sum()
    cka: Tensor = shared / (torch.linalg.norm(kernel).clamp_min(SMALLEST_NORM) * norm)
    return cka


def gram_where_useful(rows: Tensor) -> Tensor | None:
    """The guide's Gram matrix, if a target about as wide as the guide would use the Gram form."""
    return rows @ rows.T if len(rows) <= 2 * rows.shape[1] else None


@dataclass(frozen=True, kw_only=True)
class Cka(RowSimilarity):
    """Linear CKA as a training objective; see `linear_cka`."""

    name: ClassVar[str] = "cka"
    minimum_examples: ClassVar[int] = 2

    def guide_side(self, rows: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return rows, gram_where_useful(rows), biased_norm(rows)

    def compare(self, rows: Tensor, guide: tuple[Tensor, Tensor | None, Tensor]) -> Tensor:
        return biased_cka(rows, *guide)


MEMBER = Cka()
