"""What holds for every similarity of the register."""

from __future__ import annotations

import pytest
import torch

from nas_theseus.conversion.similarities.cka import linear_cka
from nas_theseus.conversion.similarities.cka_unbiased import unbiased_linear_cka
from nas_theseus.conversion.similarities.cosine import cosine
from nas_theseus.conversion.similarities.dmnn import mutual_neighbours
from nas_theseus.conversion.similarities.regression import relative_mse
from nas_theseus.conversion.similarity import agreement, similarity
from nas_theseus.errors import ConversionError, ShapeError
from nas_theseus.values.registers import SIMILARITIES
from tests.unit.conversion.similarities.examples import features, related


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


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("examples", ["maps", "positions"])
@pytest.mark.parametrize("shape", [(6, 3, 4, 4), (6, 5, 4), (8, 5)])
def test_gradients_of_prepared_losses(name: str, examples: str, shape: tuple[int, ...]) -> None:
    x, guide = features(*shape), features(*shape, seed=1)
    # Regression and cosine compare features one by one: neither takes a projection.
    options = {} if similarity(name).aligned_basis else {"project": 7, "rows": 12}
    form = similarity(name, examples=examples, pool=2, **options)
    prepared = form.prepare(guide)
    assert torch.autograd.gradcheck(lambda a: form.loss(a, prepared), (x.requires_grad_(),))


@pytest.mark.parametrize("name", ["cka", "cka-unbiased", "dmnn"])
@pytest.mark.parametrize("width", [2, 30], ids=["feature", "gram"])
def test_gradients_of_a_target_of_another_width(name: str, width: int) -> None:
    x, guide = features(24, width), features(24, 5, seed=1)
    form = similarity(name)
    prepared = form.prepare(guide)
    assert torch.autograd.gradcheck(lambda a: form.loss(a, prepared), (x.requires_grad_(),))


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("examples", ["maps", "positions"])
@pytest.mark.parametrize("shape", [(8, 3, 4, 4), (8, 5, 6), (8, 6)])
def test_loss_is_zero_for_the_guide_itself(name: str, examples: str, shape: tuple) -> None:
    guide = features(*shape, dtype=torch.float32)
    form = similarity(name, examples=examples)
    assert form.loss(guide, form.prepare(guide)).item() == pytest.approx(0, abs=1e-5)
    assert agreement(form, guide, guide).item() == pytest.approx(1, abs=1e-5)
    other = features(*shape, seed=5, dtype=torch.float32)
    assert form.loss(other, form.prepare(guide)) > 0.1


@pytest.mark.parametrize("name", SIMILARITIES)
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


def test_only_regression_and_cosine_align_the_basis() -> None:
    aligning = {name for name in SIMILARITIES if similarity(name).aligned_basis}
    assert aligning == {"regression", "cosine"}
    guide = features(32, 6)
    turned = guide @ torch.linalg.qr(features(6, 6, seed=3))[0]
    for name in SIMILARITIES:
        blind = agreement(similarity(name), turned, guide).item() > 0.99
        assert blind != similarity(name).aligned_basis


@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_loss_refuses_features_that_do_not_fit_the_guide(name: str) -> None:
    form = similarity(name, examples="positions", pool=None)
    prepared = form.prepare(features(8, 3, 4, 4))
    with pytest.raises(ShapeError, match=r"\(8, 3, 2, 2\) do not fit .* \(8, 3, 4, 4\)"):
        form.loss(features(8, 3, 2, 2), prepared)
    with pytest.raises(ShapeError, match=r"\(7, 3, 4, 4\)"):
        form.loss(features(7, 3, 4, 4), prepared)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_member_is_called_as_its_file_and_checks_its_options(name: str) -> None:
    member = similarity(name)
    assert member.name == name
    assert member.minimum_examples >= 1
    with pytest.raises(ConversionError, match=f"'{name}': pool must be 1 or more, not 0"):
        similarity(name, pool=0)
    with pytest.raises(ConversionError, match=f"'{name}'.*'maps', 'positions' or 'auto'"):
        similarity(name, examples="images")
