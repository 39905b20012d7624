"""Linear CKA from the unbiased estimator of HSIC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nas_theseus.conversion.features import SMALLEST_NORM, centred, full_precision, two_dimensional
from nas_theseus.conversion.prepared import RowSimilarity
from nas_theseus.conversion.similarities.cka import gram_where_useful


def unbiased_linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear CKA from the unbiased estimator of HSIC: 0 on average for independent features.

    The biased form is too large if there are more features than examples; this one can be outside
    [0, 1].

    Args:
        x: features of N examples, shape (N, ...); flattened to (N, D).
        y: features of the same N examples, shape (N, ...); flattened to (N, E).

    Returns:
        Scalar tensor, differentiable in both arguments; 0 where either is constant.

    Raises:
        ShapeError: N differs, or N < 4.

    Source: Song et al. 2012, equation 5; Nguyen et al. 2021, arXiv:2010.15327, section 3.
    """
    with full_precision(x):
        a, b = (centred(features) for features in two_dimensional(x, y, minimum=4))
        return unbiased_cka(a, b, None, unbiased_norm(b))


def _hsic(x: Tensor, y: Tensor, gram: Tensor | None) -> Tensor:
    """N(N-3) times the unbiased HSIC: the factor cancels in CKA. Song et al. 2012, equation 5."""
    n = len(x)
    if n <= x.shape[1] + y.shape[1]:
        kernel = (x @ x.T).fill_diagonal_(0)
        other = kernel if y is x else (y @ y.T if gram is None else gram.clone()).fill_diagonal_(0)
        shared, own, others = (kernel * other).sum(), kernel.sum(1), other.sum(1)
    else:
        size, other_size = x.square().sum(1), y.square().sum(1)
        shared = (y.T @ x).square().sum() - size @ other_size
        # Rows sum to zero over the examples, so a Gram matrix's row sums to minus its diagonal.
        own, others = -size, -other_size
    return shared + own.sum() * others.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (own @ others)


def unbiased_norm(rows: Tensor) -> Tensor:
    """Square root of the unbiased HSIC (times N(N-3)) of centred rows with themselves."""
    return _hsic(rows, rows, None).clamp_min(SMALLEST_NORM**2).sqrt()


def unbiased_cka(x: Tensor, y: Tensor, gram: Tensor | None, norm: Tensor) -> Tensor:
    """Unbiased CKA of centred rows, with y's `unbiased_norm` and, if known, its Gram matrix."""
    return _hsic(x, y, gram) / (unbiased_norm(x) * norm)


@dataclass(frozen=True, kw_only=True)
class UnbiasedCka(RowSimilarity):
    """Unbiased linear CKA as a training objective; see `unbiased_linear_cka`."""

    name: ClassVar[str] = "cka-unbiased"
    minimum_examples: ClassVar[int] = 4

    def guide_side(self, rows: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return rows, gram_where_useful(rows), unbiased_norm(rows)

    def compare(self, rows: Tensor, guide: tuple[Tensor, Tensor | None, Tensor]) -> Tensor:
        return unbiased_cka(rows, *guide)


MEMBER = UnbiasedCka()
