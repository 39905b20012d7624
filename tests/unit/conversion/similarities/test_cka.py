"""Linear CKA against its definition, and as training compares features."""

from __future__ import annotations

import pytest
import torch

from nas_theseus.conversion.similarities.cka import Cka, linear_cka
from nas_theseus.conversion.similarities.cka_unbiased import UnbiasedCka, unbiased_linear_cka
from nas_theseus.conversion.similarity import agreement, similarity
from tests.unit.conversion.similarities.examples import features, numpy_cka, related


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


def test_prepared_loss_is_the_plain_function_of_pooled_maps() -> None:
    x, y = features(10, 3, 8, 8), features(10, 5, 4, 4, seed=1)
    small = torch.nn.functional.avg_pool2d
    pooled = similarity("cka", pool=2)
    expected = linear_cka(small(x, 4), small(y, 2))
    assert agreement(pooled, x, y).item() == pytest.approx(expected.item(), abs=1e-12)
    plain = UnbiasedCka(examples="maps", pool=None)
    assert agreement(plain, x, y).item() == pytest.approx(
        unbiased_linear_cka(x, y).item(), abs=1e-12
    )
    places = Cka(examples="positions", pool=None, rows=None)
    z = features(10, 2, 8, 8, seed=2)
    expected = linear_cka(*(a.permute(0, 2, 3, 1).reshape(640, -1) for a in (x, z)))
    assert agreement(places, x, z).item() == pytest.approx(expected.item(), abs=1e-12)
    # a few positions stand for all of them
    sampled = agreement(
        Cka(examples="positions", pool=None, rows=300), x, x + z.mean(1, keepdim=True)
    )
    whole = agreement(places, x, x + z.mean(1, keepdim=True))
    assert sampled.item() == pytest.approx(whole.item(), abs=0.05)
    assert sampled.item() != whole.item()


def test_a_spatial_permutation_passes_for_maps_but_not_for_positions() -> None:
    guide = features(32, 6, 4, 4)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    shuffled = guide.flatten(2)[:, :, order].unflatten(2, (4, 4))
    maps = agreement(Cka(examples="maps", pool=None), shuffled, guide)
    positions = agreement(Cka(examples="positions", pool=None), shuffled, guide)
    assert maps.item() == pytest.approx(1, abs=1e-10)
    assert positions < 0.2


def test_the_projection_keeps_cka_near_and_is_fixed() -> None:
    y = features(64, 900)
    x = torch.cat([features(64, 900, seed=1), y[:, :450]], dim=1)
    projected = similarity("cka", project=512)
    assert agreement(projected, x, y) == agreement(projected, x, y)
    assert agreement(projected, x, y).item() == pytest.approx(linear_cka(x, y).item(), abs=0.06)
    assert agreement(projected, x, y) != agreement(similarity("cka", project=512, seed=1), x, y)
