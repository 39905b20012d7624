"""Least squares with intercept between two activation spaces, all at once or batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_theseus.errors import ConversionError, ShapeError


@dataclass(frozen=True)
class LinearMap:
    """The map y = weight x + bias between two activation spaces.

    Attributes:
        weight: shape (D2, D1).
        bias: shape (D2,).
        residual: share of the receiver's variance that it leaves unexplained, in [0, 1] when
            fitted with an intercept and little ridge.
    """

    weight: Tensor
    bias: Tensor
    residual: float = 0.0

    def __call__(self, features: Tensor) -> Tensor:
        """Rows (R, D1) to rows (R, D2)."""
        return F.linear(features, self.weight, self.bias)


class LeastSquares:
    """Least squares with intercept from batches of rows, which need not stay in memory.

    Only means and centred second moments are stored, in float64, and merged batch by batch (Chan et
    al. 1983), so that a mean far from 0 costs no precision. The normal equations square the
    condition number, for which float64 is precise enough with float32 data.

    Ours: the ridge is a share of the mean eigenvalue (trace / D1) of the sender's covariance, so
    that it has the same effect at any scale and width. It makes rank-deficient senders (dead or
    copied channels) solvable, with small surplus weights. A ridge of 0 computes the minimum-norm
    solution from an eigendecomposition instead, which is slower for thousands of features.
    """

    def __init__(self, ridge: float = 1e-6) -> None:
        if not 0 <= ridge < float("inf"):
            raise ConversionError(f"least squares: the ridge must be at least 0, not {ridge}")
        self.ridge = ridge
        self.rows = 0
        self._mean_a = self._mean_b = self._aa = self._ab = torch.empty(0)
        self._bb = torch.zeros(())

    def add(self, a: Tensor, b: Tensor) -> None:
        """Add rows of the sender, (R, D1), and the corresponding rows of the receiver, (R, D2).

        Raises:
            ShapeError: the rows are not two-dimensional, differ in number, or widths have changed.
        """
        if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
            raise ShapeError(
                f"least squares needs rows (R, D1) and (R, D2) of the same R, got "
                f"{tuple(a.shape)} and {tuple(b.shape)}"
            )
        count = len(a)
        if not count:
            return
        a, b = a.detach().double(), b.detach().double()
        if not self.rows:
            self._mean_a, self._mean_b = a.new_zeros(a.shape[1]), b.new_zeros(b.shape[1])
            self._aa = a.new_zeros(a.shape[1], a.shape[1])
            self._ab, self._bb = a.new_zeros(a.shape[1], b.shape[1]), b.new_zeros(())
        elif (a.shape[1], b.shape[1]) != tuple(self._ab.shape):
            raise ShapeError(
                f"least squares got rows of widths {tuple(self._ab.shape)} so far, but "
                f"{(a.shape[1], b.shape[1])} now"
            )
        mean_a, mean_b = a.mean(0), b.mean(0)
        a, b = a - mean_a, b - mean_b
        shift_a, shift_b = mean_a - self._mean_a, mean_b - self._mean_b
        total = self.rows + count
        weight = self.rows * count / total
        self._aa += a.T @ a + weight * torch.outer(shift_a, shift_a)
        self._ab += a.T @ b + weight * torch.outer(shift_a, shift_b)
        self._bb += b.square().sum() + weight * shift_b.square().sum()
        self._mean_a += shift_a * (count / total)
        self._mean_b += shift_b * (count / total)
        self.rows = total

    def solve(self) -> LinearMap:
        """The map that explains most of the receiver's variance, in float32.

        Raises:
            ConversionError: no rows were added, or they have NaN or infinite values.
        """
        return self.solution()[0]

    def solution(self) -> tuple[LinearMap, float, float]:
        """The map, the unexplained sum of squares and the sum of squares about the mean."""
        if not self.rows:
            raise ConversionError("least squares has no rows to fit: add activations first")
        finite = torch.isfinite(self._aa).all() and torch.isfinite(self._ab).all()
        if not (finite and torch.isfinite(self._bb)):
            raise ConversionError(
                f"least squares over {self.rows} rows met NaN or infinite activations: check the "
                "sender for divergence before fitting a stitch"
            )
        weight = self._weight()
        explained = 2 * (weight * self._ab).sum() - (weight * (self._aa @ weight)).sum()
        total = float(self._bb)
        unexplained = max(0.0, total - float(explained))
        bias = self._mean_b - self._mean_a @ weight
        residual = unexplained / total if total > 0 else 0.0
        return LinearMap(weight.T.float(), bias.float(), residual), unexplained, total

    def _weight(self) -> Tensor:
        """Solution of the normal equations, (D1, D2)."""
        level = self._aa.diagonal().mean()
        if not level > 0:
            return torch.zeros_like(self._ab)
        if self.ridge:
            ridged = self._aa.clone()
            ridged.diagonal().add_(self.ridge * level)
            factor, failed = torch.linalg.cholesky_ex(ridged)
            if not failed:
                return torch.cholesky_solve(self._ab, factor)
        # No ridge, or one so small that rounding makes the matrix indefinite.
        values, vectors = torch.linalg.eigh(self._aa)
        kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
        inverse = torch.where(kept, 1 / (values + self.ridge * level), 0.0)
        weight: Tensor = vectors @ (inverse[:, None] * (vectors.T @ self._ab))
        return weight


def least_squares(a: Tensor, b: Tensor, ridge: float = 1e-6) -> LinearMap:
    """The linear map with intercept from rows a (R, D1) to rows b (R, D2), by least squares.

    Solved in float64, returned in float32. See `LeastSquares` for the ridge and for data that come
    in batches.

    Raises:
        ShapeError: the rows are not two-dimensional, or differ in number.
        ConversionError: there are no rows, or they have NaN or infinite values.

    Source: Pan et al. 2023, SN-Net, section 3 (M = A⁺B, here with a column of ones in A).
    """
    fit = LeastSquares(ridge)
    fit.add(a, b)
    return fit.solve()
