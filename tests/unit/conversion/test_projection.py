"""The guide's basis at another width: orthonormal, best of its width, exact where it can be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nas_theseus.conversion.projection import Projection


def features(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -2, shape[1] if len(shape) == 4 else shape[-1])
    drawn = torch.randn(*shape, generator=generator) + 3
    return drawn * (scales[:, None, None] if len(shape) == 4 else scales)


@pytest.mark.parametrize("shape", [(40, 6, 4, 4), (40, 5, 6), (40, 6)])
@pytest.mark.parametrize("width", [1, 3, 6, 9])
def test_there_and_back(shape: tuple[int, ...], width: int) -> None:
    given = features(*shape)
    projection = Projection.of(given, width)
    there = projection.to_target(given)
    channels = 1 if len(shape) == 4 else -1
    assert there.shape[channels] == width
    back = projection.to_guide(there)
    assert back.shape == given.shape
    lost = float((back - given).square().sum())
    if width >= 6:
        assert lost < 1e-6
    else:
        # Principal components lose what the last singular values hold, by Eckart and Young.
        flat = given.movedim(1, -1).reshape(-1, 6) if len(shape) == 4 else given.reshape(-1, 6)
        values = torch.linalg.svdvals((flat - flat.mean(0)).double())
        assert lost == pytest.approx(float(values[width:].square().sum()), rel=1e-3)


def test_an_embedding_keeps_distances_and_is_the_same_every_time() -> None:
    given = features(10, 4)
    wide = Projection.of(given, 16).to_target(given)
    assert torch.allclose(torch.cdist(wide, wide), torch.cdist(given, given), atol=1e-5)
    assert torch.equal(Projection.of(given, 16).basis, Projection.of(given, 16).basis)
    assert (wide.var(0) > 0).all()
