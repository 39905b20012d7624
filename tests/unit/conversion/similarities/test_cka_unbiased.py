"""Unbiased CKA against the U-statistic, and its bias."""

from __future__ import annotations

import pytest
import torch

from nas_theseus.conversion.similarities.cka import linear_cka
from nas_theseus.conversion.similarities.cka_unbiased import unbiased_linear_cka
from nas_theseus.conversion.similarity import similarity
from nas_theseus.errors import ShapeError
from tests.unit.conversion.similarities.examples import features, numpy_cka, related


@pytest.mark.parametrize(("width", "other"), [(3, 2), (12, 5)])
def test_unbiased_cka_is_the_u_statistic_in_either_form(width: int, other: int) -> None:
    x, y = related(8, width, other)
    expected = numpy_cka(x, y, unbiased=True)
    assert unbiased_linear_cka(x, y).item() == pytest.approx(expected, abs=1e-10)


def test_unbiased_cka_of_independent_features_is_zero_on_average_and_the_biased_inflated() -> None:
    pairs = [(features(16, 64, seed=s), features(16, 64, seed=s + 1000)) for s in range(200)]
    unbiased = torch.stack([unbiased_linear_cka(x, y) for x, y in pairs])
    biased = torch.stack([linear_cka(x, y) for x, y in pairs])
    # Four standard errors of the mean.
    assert abs(unbiased.mean()) < 4 * unbiased.std() / len(pairs) ** 0.5
    assert biased.mean() > 0.7
    assert unbiased.min() < 0


def test_unbiased_cka_needs_four_examples() -> None:
    with pytest.raises(ShapeError, match="N >= 4"):
        unbiased_linear_cka(features(3, 2), features(3, 2))
    with pytest.raises(ShapeError, match="4 are needed"):
        similarity("cka-unbiased").prepare(features(3, 2))
