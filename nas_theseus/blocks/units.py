"""Norms and hidden units of blocks over tokens, in the guide's form."""

from __future__ import annotations

from torch import Tensor, nn

from nas_theseus.blocks.family import layer_norm
from nas_theseus.values.style import Gate, Style

_ACTIVATIONS: dict[Gate, type[nn.Module]] = {"silu": nn.SiLU, "gelu": nn.GELU}


class GatedUnits(nn.Module):
    """Hidden units with a gate, activation(gate(x)) · up(x), (…, D) to (…, H).

    Source: Shazeer 2020, arXiv:2002.05202.
    """

    def __init__(self, width: int, hidden: int, kind: Gate) -> None:
        super().__init__()
        self.kind = kind
        self.gate, self.up = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.activation = _ACTIVATIONS[kind]()

    def forward(self, x: Tensor) -> Tensor:
        units: Tensor = self.activation(self.gate(x)) * self.up(x)
        return units


def norm_like(style: Style, width: int) -> nn.Module:
    """A norm of the style; the identity for a single channel, which a norm would make constant."""
    if style.epsilon is None or width == 1:
        return layer_norm(width)
    return nn.RMSNorm(width, eps=style.epsilon)


def units_like(style: Style, width: int, hidden: int) -> tuple[nn.Module, ...]:
    """Modules that compute `hidden` units of the style, one after the other."""
    if style.gate is None:
        return nn.Linear(width, hidden), nn.GELU()
    return (GatedUnits(width, hidden, style.gate),)
