"""Multilayer-perceptron blocks: over positions and channels, and over vectors."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from nas_theseus.blocks.family import scaled_width
from nas_theseus.blocks.sequence import cannot_generate
from nas_theseus.blocks.units import norm_like, units_like
from nas_theseus.errors import ShapeError
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.style import PLAIN, Style


class TokenMixer(nn.Module):
    """Mixes positions, then channels; positions of a map are its H·W pixels.

    Inlet and outlet are maps (C,H,W) or tokens (T,D) of any sizes: the position mixer changes
    their number, the channel mixer their width. Source: MLP-Mixer, Tolstikhin et al. 2021.

    Args:
        hidden: width of both hidden layers.
    """

    styled: ClassVar[bool] = True

    def __init__(
        self, inlet: Boundary, outlet: Boundary, hidden: int = 64, style: Style = PLAIN
    ) -> None:
        super().__init__()
        for boundary in (inlet, outlet):
            if boundary.kind not in ("map", "tokens"):
                raise ShapeError(f"needs (C,H,W) or (T,D) on both sides, got {boundary}")
        self.inlet, self.outlet = inlet, outlet
        before, after = _positions(inlet), _positions(outlet)
        self.norm = norm_like(style, inlet.width)
        self.positions = nn.Sequential(
            nn.Linear(before, hidden), nn.GELU(), nn.Linear(hidden, after)
        )
        units = units_like(style, inlet.width, hidden)
        self.mlp = nn.Sequential(norm_like(style, inlet.width), *units)
        self.last = nn.Linear(hidden, outlet.width)
        self.skips_positions = before == after
        self.skips = inlet == outlet

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2) if self.inlet.kind == "map" else x
        mixed = self.positions(self.norm(tokens).transpose(1, 2)).transpose(1, 2)
        if self.skips_positions:
            mixed = mixed + tokens
        out: Tensor = self.last(self.mlp(mixed))
        if self.outlet.kind == "map":
            out = out.transpose(1, 2).reshape(-1, *self.outlet.shape)
        return out + x if self.skips else out

    def state_elements(self, tokens: int) -> int:
        """Not known: every token reads later ones.

        Raises:
            CostError: always.
        """
        del tokens
        raise cannot_generate("token_mlp", "CausalConv() or MinimalRNN()")


class PooledMLP(nn.Module):
    """Mean over positions, one hidden layer, then the outlet vector: a head.

    Args:
        hidden: hidden width as a multiple of the inlet's; 0 for a single linear map.
    """

    def __init__(self, inlet: Boundary, outlet: Boundary, hidden: float = 1.0) -> None:
        super().__init__()
        if outlet.kind != "vector" or inlet.kind == "ids":
            raise ShapeError(f"maps features to a vector (D,), not {inlet} to {outlet}")
        self.inlet = inlet
        width = scaled_width(inlet.width, hidden) if hidden else inlet.width
        self.hidden = nn.Sequential(nn.Linear(inlet.width, width), nn.ReLU()) if hidden else None
        self.last = nn.Linear(width, outlet.width)

    def forward(self, x: Tensor) -> Tensor:
        if self.inlet.kind == "map":
            x = torch.mean(x, dim=(2, 3))
        elif self.inlet.kind == "tokens":
            x = torch.mean(x, dim=1)
        if self.hidden is not None:
            x = self.hidden(x)
        out: Tensor = self.last(x)
        return out


def _positions(boundary: Boundary) -> int:
    if boundary.kind == "map":
        return boundary.shape[1] * boundary.shape[2]
    return boundary.shape[0]
