"""D-MNN against hard mutual neighbours and the overlap of softmaxes."""

from __future__ import annotations

import numpy as np
import pytest
from torch import Tensor

from nas_theseus.conversion.similarities.dmnn import mutual_neighbours
from nas_theseus.conversion.similarity import similarity
from nas_theseus.errors import ConversionError, ShapeError
from tests.unit.conversion.similarities.examples import features, related


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


def test_k_must_be_fewer_than_the_examples() -> None:
    with pytest.raises(ShapeError, match="k = 5"):
        mutual_neighbours(features(5, 2), features(5, 2), k=5)
    with pytest.raises(ShapeError, match="6 are needed"):
        similarity("dmnn", k=5).prepare(features(5, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature must be above 0, not 0"),
        ({"k": 0}, "k must be 1 or more, not 0"),
        ({"rows": 0}, "rows must be 1 or more, not 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConversionError, match=f"'dmnn': {message}"):
        similarity("dmnn", **options)
