"""The guide's basis at a boundary of another width: principal components, or a random embedding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nas_theseus.conversion.stitch_layer import rows
from nas_theseus.values.ids import derive_seed

# Number of positions from which principal components are computed.
_ROWS = 65_536


@dataclass(frozen=True)
class Projection:
    """Linear maps between a guide's boundary and the same boundary at another width.

    Ours. A target with free boundary widths cannot use the guide's basis; this defines one for each
    width, so that every schedule works: blocks that are converted separately fit together. The
    finished network does not contain the projection.

    Attributes:
        basis: orthonormal, shape (guide's width, target's width): the first principal components
            if the target is narrower, a random embedding if it is wider.
        mean: mean of the guide's features, shape (guide's width,).
    """

    basis: Tensor
    mean: Tensor

    @classmethod
    def of(cls, features: Tensor, width: int) -> Projection:
        """The projection of a guide's features (N, *boundary) to a width."""
        found = rows(features)
        stride = -(-len(found) // _ROWS)
        sampled = found[::stride].double()
        mean, own = sampled.mean(0), sampled.shape[1]
        if width <= own:
            centred = sampled - mean
            basis = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :width]
        else:
            generator = torch.Generator().manual_seed(derive_seed("embedding", own, width))
            drawn = torch.randn(width, own, generator=generator, dtype=torch.float64)
            basis = torch.linalg.qr(drawn).Q.T.to(sampled)
        return cls(basis.float().contiguous(), mean.float())

    def to_target(self, features: Tensor) -> Tensor:
        """Features (N, *boundary) of the guide's width to the target's."""
        moved = _channels_last(features)
        return _channels_back((moved - self.mean) @ self.basis, features)

    def to_guide(self, features: Tensor) -> Tensor:
        """Features of the target's width back to the guide's, without the dropped components."""
        moved = _channels_last(features)
        return _channels_back(moved @ self.basis.T + self.mean, features)


def _channels_last(features: Tensor) -> Tensor:
    return features.movedim(1, -1) if features.ndim == 4 else features


def _channels_back(features: Tensor, like: Tensor) -> Tensor:
    return features.movedim(-1, 1).contiguous() if like.ndim == 4 else features
