"""The similarity that trains: what it compares, its loss and gradients, and its edges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nas_theseus.convert.kernels import linear_cka, unbiased_linear_cka
from nas_theseus.convert.similarity import Similarity, check_features, similarity
from nas_theseus.errors import ConversionError, ShapeError

NAMES = ("cka", "cka-unbiased", "dmnn", "regression", "cosine")


def features(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


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


@pytest.mark.parametrize("name", ["cka", "cka-unbiased", "dmnn"])
@pytest.mark.parametrize("width", [2, 30], ids=["feature", "gram"])
def test_gradients_of_a_target_of_another_width(name: str, width: int) -> None:
    x, guide = features(24, width), features(24, 5, seed=1)
    form = similarity(name)
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
    y = features(64, 900)
    x = torch.cat([features(64, 900, seed=1), y[:, :450]], dim=1)
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
    y = features(32, 20, dtype=torch.float32)
    x = y + features(32, 20, seed=1, dtype=torch.float32)
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


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_refuses_features_that_do_not_fit_the_guide(name: str) -> None:
    form = similarity(name, examples="positions", pool=None)
    prepared = form.prepare(features(8, 3, 4, 4))
    with pytest.raises(ShapeError, match=r"\(8, 3, 2, 2\) do not fit .* \(8, 3, 4, 4\)"):
        form.loss(features(8, 3, 2, 2), prepared)
    with pytest.raises(ShapeError, match=r"\(7, 3, 4, 4\)"):
        form.loss(features(7, 3, 4, 4), prepared)


def test_a_similarity_wants_enough_examples() -> None:
    with pytest.raises(ShapeError, match="4 are needed"):
        similarity("cka-unbiased").prepare(features(3, 2))
    with pytest.raises(ShapeError, match="6 are needed"):
        similarity("dmnn", k=5).prepare(features(5, 2))


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
