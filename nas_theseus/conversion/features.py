"""Prepare features for similarities: full precision, pooling, one row per example, centring."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_theseus.errors import ShapeError

Examples = Literal["maps", "positions", "auto"]

# Features are scaled to a Gram matrix of trace 1, whose norm is at least 1/sqrt(N): a smaller norm
# than this is rounding noise around constant features.
SMALLEST_NORM = 1e-6


@contextmanager
def full_precision(features: Tensor) -> Iterator[None]:
    """Context without autocast, since half-precision Gram matrices are too coarse for a loss."""
    with torch.autocast(features.device.type, enabled=False):
        yield


def wide(features: Tensor) -> Tensor:
    """Float64 features unchanged; narrower ones as float32."""
    return features if features.dtype == torch.float64 else features.float()


def pooled(features: Tensor, pool: int | None) -> Tensor:
    """Wide features; maps (N, C, H, W) averaged down to at most (N, C, pool, pool)."""
    features = wide(features)
    if pool is None or features.ndim != 4:
        return features
    height, width = (min(pool, size) for size in features.shape[2:])
    return F.adaptive_avg_pool2d(features, (height, width))


def whole_examples(examples: Examples, dimensions: int) -> bool:
    """Whether an example is a whole element of the batch; otherwise each position is an example.

    Args:
        examples: "auto" means maps for (N, C, H, W) and positions for (N, T, D), where the next
            token is predicted from each token.
        dimensions: number of dimensions of the features, including the batch.
    """
    return examples == "maps" or (examples == "auto" and dimensions != 3)


def channel_axis(features: Tensor) -> int:
    """The axis of the channels: 1 for maps (N, C, H, W), the last one otherwise."""
    return 1 if features.ndim == 4 else features.ndim - 1


def position_count(shape: tuple[int, ...]) -> int:
    """Positions of one input: H·W of (N, C, H, W), T of (N, T, D), 1 of (N, D)."""
    return math.prod(shape[2:]) if len(shape) == 4 else math.prod(shape[1:-1])


def rows_of_positions(features: Tensor, count: int | None, seed: int) -> Tensor:
    """One row of channels for each position, (rows, C).

    Args:
        features: (N, C, H, W), (N, T, D) or (N, D).
        count: largest number of rows, a fixed random choice of the positions; None for all.
        seed: seed of the choice.
    """
    if features.ndim == 2:
        return features
    places = features.flatten(2).transpose(1, 2) if features.ndim == 4 else features
    batch, positions, width = places.shape
    if count is None or count >= batch * positions:
        return places.reshape(-1, width)
    chosen = _chosen_rows(batch * positions, count, seed, features.device)
    return places[chosen // positions, chosen % positions]


def projected(rows: Tensor, width: int | None, seed: int) -> Tensor:
    """Random signed sums of the columns of rows wider than `width`, (N, width).

    Inner products are unbiased over the signs. The sums need one pass over the features, whereas a
    dense Gaussian projection would cost as much as the Gram matrix that it should make cheaper.
    """
    if width is None or rows.shape[1] <= width:
        return rows
    groups = -(-rows.shape[1] // width)
    padded = F.pad(rows, (0, groups * width - rows.shape[1]))
    signs = _signs(groups, width, seed, rows.device).to(rows.dtype)
    return (padded.view(-1, groups, width) * signs).sum(1)


def centred(rows: Tensor) -> Tensor:
    """Columns centred, and scaled to a Gram matrix of trace 1 so that no product overflows."""
    mean = rows.mean(0)
    centred = rows - mean
    with torch.no_grad():
        # The scale has no gradient, since similarities do not depend on it. The floor keeps the
        # rounding noise of constant features small instead of scaling it up.
        noise = len(rows) * mean.square().sum() * (100 * torch.finfo(rows.dtype).eps) ** 2
        scale = (centred.square().sum() + noise + 1e-30).sqrt()
    return centred / scale


def two_dimensional(x: Tensor, y: Tensor, minimum: int) -> tuple[Tensor, Tensor]:
    """Both features as wide matrices (N, ·).

    Raises:
        ShapeError: the numbers of examples differ, or are below the minimum.
    """
    if x.shape[:1] != y.shape[:1] or x.ndim < 2 or y.ndim < 2 or x.shape[0] < minimum:
        raise ShapeError(
            f"features {tuple(x.shape)} and {tuple(y.shape)} must be (N, ...) of the same "
            f"N >= {minimum} examples"
        )
    return wide(x).flatten(1), wide(y).flatten(1)


def of_one_shape(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both features, wide.

    Raises:
        ShapeError: the shapes differ.
    """
    if x.shape != y.shape:
        raise ShapeError(f"features {tuple(x.shape)} and {tuple(y.shape)} differ in shape")
    return wide(x), wide(y)


@lru_cache(maxsize=64)
def _chosen_rows(total: int, count: int, seed: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(total, generator=generator)[:count].sort().values.to(device)


@lru_cache(maxsize=64)
def _signs(groups: int, width: int, seed: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (groups, width), generator=generator)
    return (signs * 2.0 - 1.0).to(device)
