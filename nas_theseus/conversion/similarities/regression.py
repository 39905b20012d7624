"""Regression: mean squared error relative to the guide's variance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_theseus.conversion.features import (
    channel_axis,
    full_precision,
    of_one_shape,
    whole_examples,
)
from nas_theseus.conversion.prepared import ElementSimilarity


def relative_mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of x over the variance of y, the guide's, about its mean example.

    Args:
        x: features of N examples, shape (N, ...).
        y: the guide's features, of the same shape.

    Raises:
        ShapeError: the shapes differ.
    """
    a, b = of_one_shape(x, y)
    with full_precision(x):
        return F.mse_loss(a, b) / variance(b, [0])


def variance(features: Tensor, examples: Sequence[int]) -> Tensor:
    """Mean square about the mean over the axes of examples, never 0."""
    mean = features.mean(tuple(examples), keepdim=True)
    noise = mean.square().mean() * torch.finfo(features.dtype).eps ** 2
    return (features - mean).square().mean().clamp_min(noise + 1e-12)


@dataclass(frozen=True, kw_only=True)
class Regression(ElementSimilarity):
    """Mean squared error over the guide's variance; see `relative_mse`."""

    name: ClassVar[str] = "regression"
    minimum_examples: ClassVar[int] = 2

    def guide_side(self, features: Tensor) -> tuple[Tensor, Tensor]:
        axes = [axis for axis in range(features.ndim) if axis != channel_axis(features)]
        whole = whole_examples(self.examples, features.ndim)
        return features, variance(features, [0] if whole else axes)

    def element_loss(self, features: Tensor, guide: tuple[Tensor, Tensor]) -> Tensor:
        goal, scale = guide
        return F.mse_loss(features, goal) / scale


MEMBER = Regression()
