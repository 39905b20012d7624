"""Folds against running the layers unfolded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.conversion.folding import fold_after, fold_before, with_weights
from nas_theseus.conversion.least_squares import LinearMap
from nas_theseus.errors import ShapeError


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def a_map(inlet: int, outlet: int) -> LinearMap:
    return LinearMap(torch.randn(outlet, inlet), torch.randn(outlet))


def apply(linear_map: LinearMap, features: Tensor) -> Tensor:
    if features.ndim == 4:
        return linear_map(features.movedim(1, -1)).movedim(-1, 1)
    return linear_map(features)


AFTER = {
    "linear": (nn.Linear(6, 4), (6,)),
    "linear without bias": (nn.Linear(6, 4, bias=False), (6,)),
    "1x1": (nn.Conv2d(6, 4, 1), (6, 7, 7)),
    "3x3 stride 2": (nn.Conv2d(6, 4, 3, stride=2, padding=1), (6, 7, 7)),
    "3x3 without bias": (nn.Conv2d(6, 4, 3, padding=1, bias=False), (6, 7, 7)),
    "3x3 dilated, reflected": (
        nn.Conv2d(6, 4, 3, padding=2, dilation=2, padding_mode="reflect"), (6, 7, 7),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("layer", "shape"), AFTER.values(), ids=AFTER.keys())
@pytest.mark.parametrize("width", [4, 9])
def test_folding_after_keeps_the_function(layer: nn.Module, shape: tuple, width: int) -> None:
    linear_map, features = a_map(4, width), torch.randn(3, *shape)
    before = layer.weight.clone()
    folded = with_weights(layer, *fold_after(layer, linear_map))
    torch.testing.assert_close(
        folded(features), apply(linear_map, layer(features)), atol=1e-5, rtol=1e-5
    )
    assert torch.equal(layer.weight, before)


BEFORE = {
    "linear": (nn.Linear(4, 6), (5, 9)),
    "1x1 without bias": (nn.Conv2d(4, 6, 1, bias=False), (9, 7, 7)),
    "1x1 same": (nn.Conv2d(4, 6, 1, padding="same"), (9, 7, 7)),
    "3x3 unpadded, stride 2": (nn.Conv2d(4, 6, 3, stride=2), (9, 7, 7)),
    "3x3 replicated": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate"), (9, 7, 7)),
}


@pytest.mark.parametrize(("layer", "shape"), BEFORE.values(), ids=BEFORE.keys())
def test_folding_before_keeps_the_function(layer: nn.Module, shape: tuple) -> None:
    linear_map, features = a_map(9, 4), torch.randn(3, *shape)
    folded = with_weights(layer, *fold_before(linear_map, layer))
    torch.testing.assert_close(
        folded(features), layer(apply(linear_map, features)), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("padding", [1, "same"])
def test_folding_before_zero_padding_is_refused_because_the_border_would_be_wrong(padding) -> None:
    layer, linear_map = nn.Conv2d(4, 6, 3, padding=padding), a_map(9, 4)
    with pytest.raises(ShapeError, match="missing at the border"):
        fold_before(linear_map, layer)
    # The reason, measured: weights folded as if unpadded are right inside and wrong at the border.
    weights = fold_before(linear_map, with_unpadded(layer))
    features = torch.randn(2, 9, 5, 5)
    error = (with_weights(layer, *weights)(features) - layer(apply(linear_map, features))).abs()
    assert error[:, :, 1:-1, 1:-1].max() < 1e-4
    assert error[:, :, 0].max() > 1e-2


def with_unpadded(layer: nn.Conv2d) -> nn.Conv2d:
    unpadded = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size)
    unpadded.load_state_dict(layer.state_dict())
    return unpadded


def test_folds_refuse_groups_other_layers_and_widths() -> None:
    depthwise = nn.Conv2d(4, 4, 3, groups=4)
    for fold in (
        lambda: fold_after(depthwise, a_map(4, 4)),
        lambda: fold_before(a_map(4, 4), depthwise),
    ):
        with pytest.raises(ShapeError, match="4 groups"):
            fold()
    with pytest.raises(ShapeError, match="not BatchNorm2d"):
        fold_after(nn.BatchNorm2d(4), a_map(4, 4))
    with pytest.raises(ShapeError, match="reads 5 features, the layer has 4"):
        fold_after(nn.Linear(6, 4), a_map(5, 4))
    with pytest.raises(ShapeError, match="has 5 features, but the layer reads 6"):
        fold_before(a_map(4, 5), nn.Linear(6, 4))
