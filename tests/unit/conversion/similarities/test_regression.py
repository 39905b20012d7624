"""Regression: relative error, and what its scale is."""

from __future__ import annotations

import pytest
import torch

from nas_theseus.conversion.similarities.regression import Regression, relative_mse, variance
from tests.unit.conversion.similarities.examples import features


def test_the_relative_error_of_the_mean_is_one() -> None:
    y = features(50, 7) + 5
    assert relative_mse(y.mean(0).expand_as(y), y).item() == pytest.approx(1, abs=1e-12)
    assert relative_mse(y, y).item() == 0


def test_over_positions_the_scale_is_the_variance_about_each_channel_s_mean() -> None:
    guide = features(6, 3, 4, 4) * torch.tensor([1.0, 5.0, 0.1])[:, None, None]
    by_channel = guide.transpose(0, 1).flatten(1)
    expected = by_channel.var(1, correction=0).mean()
    _, scale = Regression().prepare(guide).guide
    assert scale.item() == pytest.approx(expected.item(), rel=1e-6)
    whole = Regression(examples="maps")
    assert whole.prepare(guide).guide[1].item() == pytest.approx(variance(guide, [0]).item())
    other = features(6, 3, 4, 4, seed=1)
    assert whole.loss(other, whole.prepare(guide)).item() == pytest.approx(
        relative_mse(other, guide).item()
    )
