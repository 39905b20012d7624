"""Pure similarities against second derivations in numpy, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from nas_theseus.convert.kernels import (
    cosine,
    linear_cka,
    mutual_neighbours,
    relative_mse,
    unbiased_linear_cka,
)
from nas_theseus.errors import ShapeError


def features(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def related(rows: int, width: int, other: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two sets of features that share part of what they hold."""
    x = features(rows, width, seed=seed) + 0.7
    mixing = features(width, other, seed=seed + 1)
    return x, torch.relu(x @ mixing) + features(rows, other, seed=seed + 2)


def numpy_cka(x: Tensor, y: Tensor, unbiased: bool = False) -> float:
    """CKA by centring matrices (biased) or explicit sums over distinct indices (unbiased)."""
    k, l = (a.numpy() @ a.numpy().T for a in (x, y))  # noqa: E741
    n = len(k)
    if not unbiased:
        h = np.eye(n) - np.ones((n, n)) / n

        def hsic(a: np.ndarray, b: np.ndarray) -> float:
            return float(np.trace(a @ h @ b @ h))
    else:

        def hsic(a: np.ndarray, b: np.ndarray) -> float:
            two = three = four = 0.0
            for i in range(n):
                for j in range(n):
                    if j == i:
                        continue
                    two += a[i, j] * b[i, j]
                    for q in range(n):
                        if q in (i, j):
                            continue
                        three += a[i, j] * b[i, q]
                        for r in range(n):
                            if r not in (i, j, q):
                                four += a[i, j] * b[q, r]
            # Gretton et al. 2005: HSIC is a U-statistic of these three sums.
            return (
                two / (n * (n - 1))
                + four / (n * (n - 1) * (n - 2) * (n - 3))
                - 2 * three / (n * (n - 1) * (n - 2))
            )

    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


@pytest.mark.parametrize(
    ("rows", "width", "other"), [(20, 3, 4), (8, 30, 5), (8, 4, 40), (6, 2, 9)]
)
def test_linear_cka_is_the_definition_in_either_form(rows: int, width: int, other: int) -> None:
    x, y = related(rows, width, other)
    assert linear_cka(x, y).item() == pytest.approx(numpy_cka(x, y), abs=1e-12)


def test_gram_form_equals_feature_form() -> None:
    # Zero columns change no inner product but make the Gram form the cheaper one.
    x, y = related(20, 3, 4)
    wide = torch.cat([x, x.new_zeros(20, 60)], dim=1)
    for function in (linear_cka, unbiased_linear_cka):
        assert function(wide, y).item() == pytest.approx(function(x, y).item(), abs=1e-12)


@pytest.mark.parametrize(("width", "other"), [(3, 2), (12, 5)])
def test_unbiased_cka_is_the_u_statistic_in_either_form(width: int, other: int) -> None:
    x, y = related(8, width, other)
    expected = numpy_cka(x, y, unbiased=True)
    assert unbiased_linear_cka(x, y).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("function", [linear_cka, unbiased_linear_cka])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_cka_ignores_rotation_scale_and_shift(function, scale: float) -> None:
    x, y = related(16, 6, 5)
    rotation = torch.linalg.qr(features(6, 6, seed=9))[0]
    turned = (x @ rotation * scale + 3 * scale).float()
    assert function(turned, y.float()).item() == pytest.approx(function(x, y).item(), abs=2e-5)
    assert function(x, x @ rotation).item() == pytest.approx(1, abs=1e-12)
    # but not a general linear map
    assert function(x, x * torch.tensor([9.0, 1, 1, 1, 1, 0.1])).item() < 0.9


def test_unbiased_cka_of_independent_features_is_zero_on_average_and_the_biased_inflated() -> None:
    pairs = [(features(16, 64, seed=s), features(16, 64, seed=s + 1000)) for s in range(200)]
    unbiased = torch.stack([unbiased_linear_cka(x, y) for x, y in pairs])
    biased = torch.stack([linear_cka(x, y) for x, y in pairs])
    # Four standard errors of the mean.
    assert abs(unbiased.mean()) < 4 * unbiased.std() / len(pairs) ** 0.5
    assert biased.mean() > 0.7
    assert unbiased.min() < 0


@pytest.mark.parametrize("k", [1, 3])
def test_dmnn_at_low_temperature_is_hard_mutual_knn(k: int) -> None:
    x, y = related(40, 6, 8)

    def nearest(rows: Tensor) -> list[set[int]]:
        centred = rows.numpy() - rows.numpy().mean(0)
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        alike = unit @ unit.T
        np.fill_diagonal(alike, -np.inf)
        return [set(np.argsort(-row)[:k]) for row in alike]

    hard = np.mean([len(a & b) / k for a, b in zip(nearest(x), nearest(y), strict=True)])
    assert 0.1 < hard < 0.9
    assert mutual_neighbours(x, y, 1e-6, k).item() == pytest.approx(hard, abs=1e-3)
    assert mutual_neighbours(x, x, 0.1, k).item() == pytest.approx(1, abs=1e-12)


def test_dmnn_is_the_overlap_of_softmaxes() -> None:
    x, y = related(10, 4, 3)

    def rows(values: Tensor) -> np.ndarray:
        centred = values.numpy() - values.numpy().mean(0)
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        weights = np.exp(unit @ unit.T / 0.3) * (1 - np.eye(len(unit)))
        return weights / weights.sum(1, keepdims=True)

    expected = np.sqrt(rows(x) * rows(y)).sum(1).mean()
    assert mutual_neighbours(x, y, 0.3).item() == pytest.approx(expected, abs=1e-12)


def test_relative_mse_of_the_mean_is_one_and_cosine_ignores_scale() -> None:
    y = features(50, 7) + 5
    assert relative_mse(y.mean(0).expand_as(y), y).item() == pytest.approx(1, abs=1e-12)
    assert relative_mse(y, y).item() == 0
    assert cosine(3 * y, y).item() == pytest.approx(1, abs=1e-12)
    assert cosine(-y, y).item() == pytest.approx(-1, abs=1e-12)


@pytest.mark.parametrize(
    "function",
    [
        linear_cka,
        unbiased_linear_cka,
        mutual_neighbours,
        lambda x, y: mutual_neighbours(x, y, 0.3, k=2),
        lambda x, y: relative_mse(x, y[:, : x.shape[1]]),
        lambda x, y: cosine(x, y[:, : x.shape[1]]),
    ],
    ids=["cka", "cka-unbiased", "dmnn", "dmnn-k2", "regression", "cosine"],
)
@pytest.mark.parametrize("rows", [7, 24], ids=["gram", "feature"])
def test_gradients(function, rows: int) -> None:
    x, y = related(rows, 4, 5)
    assert torch.autograd.gradcheck(function, (x.requires_grad_(), y.requires_grad_()))


@pytest.mark.parametrize("function", [linear_cka, unbiased_linear_cka, mutual_neighbours])
def test_different_examples_are_refused_with_both_shapes(function) -> None:
    with pytest.raises(ShapeError, match=r"\(5, 3\) and \(6, 3\)"):
        function(features(5, 3), features(6, 3))
    with pytest.raises(ShapeError):
        function(features(1, 3), features(1, 3))


@pytest.mark.parametrize("function", [relative_mse, cosine])
def test_different_shapes_are_refused_where_features_are_compared_one_by_one(function) -> None:
    with pytest.raises(ShapeError, match=r"\(5, 3\) and \(5, 4\)"):
        function(features(5, 3), features(5, 4))


def test_unbiased_cka_needs_four_examples_and_k_fewer_than_n() -> None:
    with pytest.raises(ShapeError, match="N >= 4"):
        unbiased_linear_cka(features(3, 2), features(3, 2))
    with pytest.raises(ShapeError, match="k = 5"):
        mutual_neighbours(features(5, 2), features(5, 2), k=5)
