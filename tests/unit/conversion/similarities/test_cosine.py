"""Cosine: of whole examples and of positions."""

from __future__ import annotations

import pytest
import torch.nn.functional as F

from nas_theseus.conversion.similarities.cosine import Cosine, cosine
from nas_theseus.conversion.similarity import agreement
from tests.unit.conversion.similarities.examples import features


def test_cosine_ignores_scale_and_sees_the_sign() -> None:
    y = features(50, 7) + 5
    assert cosine(3 * y, y).item() == pytest.approx(1, abs=1e-12)
    assert cosine(-y, y).item() == pytest.approx(-1, abs=1e-12)


def test_positions_are_compared_one_by_one_and_maps_as_a_whole() -> None:
    x, y = features(5, 3, 4, 4), features(5, 3, 4, 4, seed=1)
    by_position = F.cosine_similarity(x, y, dim=1).mean()
    assert agreement(Cosine(), x, y).item() == pytest.approx(by_position.item(), abs=1e-12)
    whole = agreement(Cosine(examples="maps"), x, y)
    assert whole.item() == pytest.approx(cosine(x, y).item(), abs=1e-12)
    assert whole.item() != by_position.item()
