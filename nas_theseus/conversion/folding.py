"""Fold a linear map into the layer before or after it, so that it costs nothing."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from nas_theseus.conversion.least_squares import LinearMap
from nas_theseus.errors import ShapeError


def fold_after(last: nn.Linear | nn.Conv2d, linear_map: LinearMap) -> tuple[Tensor, Tensor]:
    """Weight and bias of `last` followed by the map: exact for any kernel, stride and padding.

    A layer without bias gets one. If the map changes the width, a new layer is needed
    (`with_weights`).

    Raises:
        ShapeError: the layer is of another type or a grouped convolution, or the widths do not fit.
    """
    _check_foldable(last)
    if linear_map.weight.shape[1] != last.weight.shape[0]:
        raise ShapeError(
            f"a map of weight {tuple(linear_map.weight.shape)} cannot follow a layer of weight "
            f"{tuple(last.weight.shape)}: it reads {linear_map.weight.shape[1]} features, the "
            f"layer has {last.weight.shape[0]}"
        )
    outer, shift, weight, bias = _in_float64(linear_map, last)
    folded = torch.tensordot(outer, weight, dims=1)
    return folded.to(last.weight.dtype), (outer @ bias + shift).to(last.weight.dtype)


def fold_before(linear_map: LinearMap, following: nn.Linear | nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the map followed by `following`, exact for linear and unpadded layers.

    Raises:
        ShapeError: the layer is of another type or a grouped or zero-padded convolution, or the
            widths do not fit. Zeros are padded after the map; if the map were folded into the
            convolution, they would be padded before it, without the map's bias at the border.
    """
    _check_foldable(following)
    if isinstance(following, nn.Conv2d) and _pads_with_zeros(following):
        raise ShapeError(
            f"a linear map cannot be folded into the zero-padded convolution after it "
            f"({following}): its bias would be missing at the border. Fold it into the layer "
            "before, or keep it"
        )
    if linear_map.weight.shape[0] != following.weight.shape[1]:
        raise ShapeError(
            f"a map of weight {tuple(linear_map.weight.shape)} cannot precede a layer of weight "
            f"{tuple(following.weight.shape)}: it has {linear_map.weight.shape[0]} features, but "
            f"the layer reads {following.weight.shape[1]}"
        )
    inner, shift, weight, bias = _in_float64(linear_map, following)
    folded = torch.tensordot(weight, inner, dims=([1], [0])).movedim(-1, 1)
    moved = torch.tensordot(weight, shift, dims=([1], [0]))
    bias = bias + (moved if moved.ndim == 1 else moved.flatten(1).sum(1))
    return folded.contiguous().to(following.weight.dtype), bias.to(following.weight.dtype)


def with_weights(
    layer: nn.Linear | nn.Conv2d, weight: Tensor, bias: Tensor
) -> nn.Linear | nn.Conv2d:
    """A layer of the same kind, stride and padding with these weights and their widths."""
    _check_foldable(layer)
    fresh = copy.deepcopy(layer)
    fresh.weight, fresh.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    if isinstance(fresh, nn.Conv2d):
        fresh.out_channels, fresh.in_channels = weight.shape[:2]
    else:
        fresh.out_features, fresh.in_features = weight.shape
    return fresh


def _in_float64(
    linear_map: LinearMap, layer: nn.Linear | nn.Conv2d
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weight = layer.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double()
    return linear_map.weight.to(weight), linear_map.bias.to(weight), weight, bias


def _pads_with_zeros(conv: nn.Conv2d) -> bool:
    if conv.padding_mode != "zeros" or conv.padding == "valid":
        return False
    if conv.padding == "same":
        return max(conv.kernel_size) > 1
    return any(conv.padding)


def _check_foldable(layer: nn.Module) -> None:
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise ShapeError(
            f"a linear map can be folded into nn.Linear or nn.Conv2d, not {type(layer).__name__}: "
            "keep it as a separate layer"
        )
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        raise ShapeError(
            f"a linear map mixes channels, which a convolution of {layer.groups} groups cannot "
            f"({layer}): keep it as a separate 1x1 convolution, and count it"
        )
