"""Choosing a similarity by name, and what features cannot be compared."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nas_theseus.conversion.similarity import check_features, similarity
from nas_theseus.errors import ConversionError, ShapeError, UnknownNameError
from tests.unit.conversion.similarities.examples import features


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


def test_wrong_names_and_options_list_what_is_possible() -> None:
    with pytest.raises(UnknownNameError, match=r"'ckaa'; use cka, .*regression"):
        similarity("ckaa")
    with pytest.raises(
        ConversionError,
        match="'cka' has no option temperature; its options are examples, pool, project, rows,",
    ):
        similarity("cka", temperature=1)
    with pytest.raises(ConversionError, match="'regression' has no option k, project; .*pool$"):
        similarity("regression", project=8, k=1)


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
