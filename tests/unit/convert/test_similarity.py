"""Similarities against second derivations in numpy, their gradients and their edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from nas_theseus.convert.similarity import (
    Similarity,
    check_features,
    cosine,
    linear_cka,
    mutual_neighbours,
    relative_mse,
    similarity,
    unbiased_linear_cka,
)
from nas_theseus.errors import ConversionError, ShapeError

NAMES = ("cka", "cka-unbiased", "dmnn", "regression", "cosine")


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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("examples", ["maps", "positions"])
@pytest.mark.parametrize("shape", [(6, 3, 4, 4), (6, 5, 4), (8, 5)])
def test_gradients_of_prepared_losses(name: str, examples: str, shape: tuple[int, ...]) -> None:
    x, guide = features(*shape), features(*shape, seed=1)
    # Regression and cosine compare features one by one: they take no projection.
    options = {} if name in ("regression", "cosine") else {"project": 7}
    form = similarity(name, examples=examples, pool=2, rows=12, **options)
    prepared = form.prepare(guide)
    assert torch.autograd.gradcheck(lambda a: form.loss(a, prepared), (x.requires_grad_(),))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("examples", ["maps", "positions"])
@pytest.mark.parametrize("shape", [(8, 3, 4, 4), (8, 5, 6), (8, 6)])
def test_loss_is_zero_for_the_guide_itself(name: str, examples: str, shape: tuple) -> None:
    guide = features(*shape, dtype=torch.float32)
    form = similarity(name, examples=examples)
    assert form.loss(guide, form.prepare(guide)).item() == pytest.approx(0, abs=1e-5)
    assert form.score(guide, guide).item() == pytest.approx(1, abs=1e-5)
    other = features(*shape, seed=5, dtype=torch.float32)
    assert form.loss(other, form.prepare(guide)) > 0.1


def test_prepared_loss_is_the_plain_function_of_pooled_maps() -> None:
    x, y = features(10, 3, 8, 8), features(10, 5, 4, 4, seed=1)
    small = torch.nn.functional.avg_pool2d
    pooled = similarity("cka", pool=2)
    expected = linear_cka(small(x, 4), small(y, 2))
    assert pooled.score(x, y).item() == pytest.approx(expected.item(), abs=1e-12)
    plain = Similarity("cka-unbiased", "maps")
    assert plain.score(x, y).item() == pytest.approx(unbiased_linear_cka(x, y).item(), abs=1e-12)
    places = Similarity("cka", "positions", rows=None)
    z = features(10, 2, 8, 8, seed=2)
    expected = linear_cka(*(a.permute(0, 2, 3, 1).reshape(640, -1) for a in (x, z)))
    assert places.score(x, z).item() == pytest.approx(expected.item(), abs=1e-12)
    # a few positions stand for all of them
    sampled = Similarity("cka", "positions", rows=300).score(x, x + z.mean(1, keepdim=True))
    whole = places.score(x, x + z.mean(1, keepdim=True))
    assert sampled.item() == pytest.approx(whole.item(), abs=0.05)
    assert sampled.item() != whole.item()


def test_a_spatial_permutation_passes_for_maps_but_not_for_positions() -> None:
    guide = features(32, 6, 4, 4)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    shuffled = guide.flatten(2)[:, :, order].unflatten(2, (4, 4))
    maps = Similarity("cka", "maps").score(shuffled, guide)
    positions = Similarity("cka", "positions").score(shuffled, guide)
    assert maps.item() == pytest.approx(1, abs=1e-10)
    assert positions < 0.2


def test_the_projection_keeps_cka_near_and_is_fixed() -> None:
    x, y = related(64, 900, 900)
    x = torch.cat([x, y[:, :450]], dim=1)
    projected = similarity("cka", project=512)
    assert projected.score(x, y) == projected.score(x, y)
    assert projected.score(x, y).item() == pytest.approx(linear_cka(x, y).item(), abs=0.06)
    assert projected.score(x, y) != similarity("cka", project=512, seed=1).score(x, y)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 0.3, 1e4])
@pytest.mark.parametrize("constant", ["target", "guide", "both"])
def test_constant_features_give_a_finite_loss_and_gradient(
    name: str, value: float, constant: str
) -> None:
    guide = features(16, 4, 4, 4, dtype=torch.float32)
    x = features(16, 4, 4, 4, seed=1, dtype=torch.float32)
    flat = torch.full_like(guide, value)
    form = similarity(name, pool=2)
    target = (x if constant == "guide" else flat).clone().requires_grad_()
    loss = form.loss(target, form.prepare(guide if constant == "target" else flat))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(target.grad).all()


def test_autocast_changes_nothing_and_half_features_are_compared_in_full() -> None:
    x, y = (a.float() for a in related(32, 20, 20))
    form = similarity("cka")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = form.loss(x, form.prepare(y))
    assert inside.dtype == torch.float32
    assert inside.item() == form.loss(x, form.prepare(y)).item()
    half = form.loss(x.bfloat16(), form.prepare(y.bfloat16()))
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(inside.item(), abs=1e-2)


def test_only_regression_and_cosine_align_the_basis() -> None:
    assert [similarity(name).aligned_basis for name in NAMES] == [False] * 3 + [True] * 2
    guide = features(32, 6)
    turned = guide @ torch.linalg.qr(features(6, 6, seed=3))[0]
    for name in NAMES:
        assert (similarity(name).score(turned, guide) > 0.99) != similarity(name).aligned_basis


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
    with pytest.raises(ShapeError, match="4 are needed"):
        similarity("cka-unbiased").prepare(features(3, 2))
    with pytest.raises(ShapeError, match="k = 5"):
        mutual_neighbours(features(5, 2), features(5, 2), k=5)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_refuses_features_that_do_not_fit_the_guide(name: str) -> None:
    form = similarity(name, examples="positions", pool=None)
    prepared = form.prepare(features(8, 3, 4, 4))
    with pytest.raises(ShapeError, match=r"\(8, 3, 2, 2\) do not fit .* \(8, 3, 4, 4\)"):
        form.loss(features(8, 3, 2, 2), prepared)
    with pytest.raises(ShapeError, match=r"\(7, 3, 4, 4\)"):
        form.loss(features(7, 3, 4, 4), prepared)


def test_wrong_names_and_options_list_what_is_possible() -> None:
    with pytest.raises(ConversionError, match=r"'ckaa'.*cka, cka-unbiased, dmnn, regression, cos"):
        similarity("ckaa")
    with pytest.raises(ConversionError, match="no option tempo; options are .*temperature"):
        similarity("dmnn", tempo=1)
    with pytest.raises(ConversionError, match="temperature is 0"):
        similarity("dmnn", temperature=0)
    with pytest.raises(ConversionError, match="pool is 0"):
        similarity("cka", pool=0)
    with pytest.raises(ConversionError, match="'maps', 'positions' or 'auto'"):
        similarity("cka", examples="images")
    with pytest.raises(ConversionError, match="projection would mix"):
        similarity("regression", project=8)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (torch.full((8, 3), 2.5), "the target features are the same for all 8 examples"),
        (torch.full((8, 3), float("nan")), "24 of 24 target features are NaN"),
        (torch.full((8, 3), 1e7), "the same for all 8"),
    ],
)
def test_check_features_names_what_is_wrong(broken: Tensor, message: str) -> None:
    good = features(8, 3)
    check_features(good, good, part="layer1")
    with pytest.raises(ConversionError, match=f"'layer1'.*{message}"):
        check_features(broken, good, part="layer1")
    with pytest.raises(ConversionError, match=message.replace("target", "guide")):
        check_features(good, broken, part="layer1")


def test_rounding_around_constant_features_is_not_taken_for_features() -> None:
    flat = torch.full((97, 3), 0.1)
    assert (flat - flat.mean(0)).abs().max() > 0  # the mean of equal numbers is rounded
    with pytest.raises(ConversionError, match="the same for all 97"):
        check_features(flat, features(97, 3), part="stem")


def test_check_features_wants_enough_of_the_same_examples() -> None:
    with pytest.raises(ConversionError, match="3 examples are too few"):
        check_features(features(3, 2), features(3, 2), part="stem")
    with pytest.raises(ShapeError, match=r"\(8, 2\) and guide features \(7, 2\)"):
        check_features(features(8, 2), features(7, 2), part="stem")
