"""Channels of a boundary: kept ones are exact, the others are predicted by least squares."""

from __future__ import annotations

import pytest
import torch

from nas_theseus.conversion.selection import Selection

KEPT = torch.tensor([0, 2, 3])


@pytest.mark.parametrize("shape", [(40, 6, 4, 4), (40, 5, 6), (400, 6)])
def test_there_and_back(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator)
    rows = torch.randn(640, 6, generator=generator) @ mixing + 3
    axis = 1 if len(shape) == 4 else -1
    positions = [*shape[:1], *shape[2:]] if len(shape) == 4 else list(shape[:-1])
    given = rows[: torch.tensor(positions).prod()].view(*positions, 6).movedim(-1, axis)
    selection = Selection.of(given, KEPT)
    there = selection.to_target(given)
    assert torch.equal(there, given.index_select(axis, KEPT))
    back = selection.to_guide(there)
    assert back.shape == given.shape
    assert torch.allclose(back.index_select(axis, KEPT), there, atol=1e-5)
    flat = given.movedim(axis, -1).reshape(-1, 6).double()
    inputs = torch.cat([flat[:, KEPT], torch.ones(len(flat), 1).double()], 1)
    best = inputs @ torch.linalg.lstsq(inputs, flat).solution
    lost = float((best - flat).square().sum())
    assert float((back - given).square().sum()) <= 1.02 * lost


def test_a_prediction_is_not_below_all_values_seen() -> None:
    given = torch.relu(torch.randn(500, 6, generator=torch.Generator().manual_seed(0)))
    given[:, 1] = torch.relu(given[:, 0] - 1)
    selection = Selection.of(given, KEPT)
    found = selection.to_guide(torch.zeros(1, 3) - 5)
    assert (found[:, [1, 4, 5]] >= 0).all() and (found[:, KEPT] == -5).all()
