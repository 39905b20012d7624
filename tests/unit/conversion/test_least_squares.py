"""Least squares with intercept against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from nas_theseus.conversion.least_squares import LeastSquares, least_squares
from nas_theseus.errors import ConversionError, ShapeError


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def numpy_fit(a: Tensor, b: Tensor, intercept: bool = True) -> tuple[np.ndarray, float]:
    """Predictions and unexplained variance share by numpy's SVD-based least squares."""
    x, y = a.double().numpy(), b.double().numpy()
    if intercept:
        x = np.hstack([x, np.ones((len(x), 1))])
    predicted = x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return predicted, float(((y - predicted) ** 2).sum() / ((y - y.mean(0)) ** 2).sum())


@pytest.mark.parametrize("ridge", [1e-6, 0.0])
@pytest.mark.parametrize("case", ["full rank", "copied channels", "dead channel", "few rows"])
def test_least_squares_predicts_as_numpy_does(ridge: float, case: str) -> None:
    a = torch.randn(5 if case == "few rows" else 200, 12) * 3 + 4
    if case == "copied channels":
        a[:, 6:] = a[:, :6]
    if case == "dead channel":
        a[:, 3] = 7.0
    b = torch.tanh(a @ torch.randn(12, 5)) + 0.1 * torch.randn(len(a), 5)
    predicted, residual = numpy_fit(a, b)
    fitted = least_squares(a, b, ridge)
    assert fitted.weight.shape == (5, 12)
    assert fitted.bias.shape == (5,)
    assert fitted.weight.dtype == fitted.bias.dtype == torch.float32
    assert fitted(a).numpy() == pytest.approx(predicted, abs=1e-3)
    assert fitted.residual == pytest.approx(residual, abs=1e-5)
    assert fitted.weight.abs().max() < 10  # surplus directions stay small
    if case == "copied channels":
        torch.testing.assert_close(fitted.weight[:, 6:], fitted.weight[:, :6])


def test_no_ridge_gives_numpys_minimum_norm_weights_on_centred_data() -> None:
    a = (torch.randint(-3, 4, (64, 4)) @ torch.randint(-3, 4, (4, 9))).double()  # rank 4, exactly
    b = torch.randn(64, 3)
    centred = [(m - m.mean(0)).double().numpy() for m in (a, b)]
    expected = np.linalg.lstsq(*centred, rcond=1e-9)[0].T
    assert np.linalg.matrix_rank(centred[0]) == 4
    assert least_squares(a, b, ridge=0).weight.numpy() == pytest.approx(expected, abs=1e-6)
    assert least_squares(a, b, ridge=1e-9).weight.numpy() == pytest.approx(expected, abs=1e-5)


def test_without_an_intercept_a_shift_of_the_mean_leaves_a_residual() -> None:
    a = torch.randn(300, 6)
    b = a @ torch.randn(6, 4) + 20
    assert least_squares(a, b).residual < 1e-9
    assert numpy_fit(a, b, intercept=False)[1] > 1


def test_batches_give_what_all_rows_give_even_far_from_zero() -> None:
    a = torch.randn(1000, 8, dtype=torch.float64) + 1e5
    b = a @ torch.randn(8, 3, dtype=torch.float64) + torch.randn(1000, 3, dtype=torch.float64)
    whole, parts = least_squares(a, b), LeastSquares()
    for x, y in zip(a.split([1, 399, 0, 600]), b.split([1, 399, 0, 600]), strict=True):
        parts.add(x, y)
    batched = parts.solve()
    assert parts.rows == 1000
    torch.testing.assert_close(batched.weight, whole.weight, atol=1e-5, rtol=1e-5)
    assert batched.residual == pytest.approx(whole.residual, rel=1e-4)
    assert whole.residual == pytest.approx(numpy_fit(a, b)[1], rel=1e-3)


def test_constant_features_are_fitted_by_the_bias_alone() -> None:
    b = torch.randn(20, 2)
    fitted = least_squares(torch.full((20, 3), 4.0), b)
    assert fitted.residual == pytest.approx(1)
    torch.testing.assert_close(fitted(torch.full((1, 3), 4.0))[0], b.mean(0))
    assert least_squares(b, torch.full((20, 3), 4.0)).residual == 0


def test_least_squares_refuses_what_it_cannot_fit() -> None:
    with pytest.raises(ShapeError, match=r"\(4, 3\) and \(5, 3\)"):
        least_squares(torch.randn(4, 3), torch.randn(5, 3))
    with pytest.raises(ShapeError, match="needs rows"):
        least_squares(torch.randn(4, 3, 2), torch.randn(4, 3))
    with pytest.raises(ConversionError, match="NaN"):
        least_squares(torch.full((4, 3), float("nan")), torch.randn(4, 3))
    with pytest.raises(ConversionError, match="no rows"):
        LeastSquares().solve()
    with pytest.raises(ConversionError, match="ridge must be at least 0, not -1"):
        LeastSquares(-1)
    fit = LeastSquares()
    fit.add(torch.randn(4, 3), torch.randn(4, 2))
    with pytest.raises(ShapeError, match=r"widths \(3, 2\) so far, but \(5, 2\) now"):
        fit.add(torch.randn(4, 5), torch.randn(4, 2))
