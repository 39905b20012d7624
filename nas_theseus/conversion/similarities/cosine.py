"""Mean cosine between the features of each example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from nas_theseus.conversion.features import (
    SMALLEST_NORM,
    channel_axis,
    full_precision,
    of_one_shape,
    whole_examples,
)
from nas_theseus.conversion.prepared import ElementSimilarity


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Mean over examples of the cosine between their features, in [-1, 1]; not centred.

    Args:
        x: features of N examples, shape (N, ...).
        y: the guide's features, of the same shape.

    Raises:
        ShapeError: the shapes differ.
    """
    a, b = of_one_shape(x, y)
    with full_precision(x):
        return mean_cosine(a.flatten(1), b.flatten(1), dim=1)


def mean_cosine(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """Mean cosine along one axis; 0 where either is 0."""
    return F.cosine_similarity(x, y, dim=dim, eps=SMALLEST_NORM).mean()


@dataclass(frozen=True, kw_only=True)
class Cosine(ElementSimilarity):
    """Mean cosine, over whole examples or over positions; see `cosine`."""

    name: ClassVar[str] = "cosine"
    minimum_examples: ClassVar[int] = 1

    def guide_side(self, features: Tensor) -> Tensor:
        return features

    def element_loss(self, features: Tensor, guide: Tensor) -> Tensor:
        if whole_examples(self.examples, features.ndim):
            return 1 - mean_cosine(features.flatten(1), guide.flatten(1), dim=1)
        return 1 - mean_cosine(features, guide, channel_axis(features))


MEMBER = Cosine()
