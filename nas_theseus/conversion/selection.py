"""The guide's basis at a narrower boundary whose channels are some of the guide's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nas_theseus.blocks.pruning import RIDGE, gram, with_ridge
from nas_theseus.conversion.stitch_layer import rows

# Number of positions from which the channels left out are predicted.
_ROWS = 65_536


@dataclass(frozen=True)
class Selection:
    """Channels of a guide's boundary, and the best linear prediction of the others from them.

    It takes the place of a `Projection` where guide parts are narrowed, which can only keep or
    leave out channels.

    Attributes:
        channels: the channels kept, ascending, shape (width,).
        back: the prediction of all channels, shape (width, guide's width); kept ones are exact.
        shift: its constant, shape (guide's width,).
        least: least value of each channel left out, below which none is predicted; −∞ for others.
    """

    channels: Tensor
    back: Tensor
    shift: Tensor
    least: Tensor

    @classmethod
    def of(cls, features: Tensor, channels: Tensor) -> Selection:
        """The selection of channels from a guide's features (N, *boundary)."""
        found = rows(features)
        sampled = found[:: -(-len(found) // _ROWS)]
        channels, mean = channels.to(sampled.device), sampled.double().mean(0)
        products = gram(sampled - mean.float())
        inner = with_ridge(products[channels][:, channels], RIDGE)
        back = torch.cholesky_solve(products[channels], torch.linalg.cholesky(inner))
        back[:, channels] = torch.eye(len(channels)).to(back)
        shift = mean - mean[channels] @ back
        shift[channels] = 0
        least = sampled.min(0).values
        least[channels] = -torch.inf
        return cls(channels, back.float().contiguous(), shift.float(), least)

    def to_target(self, features: Tensor) -> Tensor:
        """The kept channels of features (N, *boundary) of the guide's width."""
        return features.index_select(1 if features.ndim == 4 else -1, self.channels)

    def to_guide(self, features: Tensor) -> Tensor:
        """Features of the target's width with predictions of the channels left out."""
        moved = features.movedim(1, -1) if features.ndim == 4 else features
        found = torch.maximum(moved @ self.back + self.shift, self.least)
        return found.movedim(-1, 1).contiguous() if features.ndim == 4 else found
