"""The norm and the hidden units of a guide's MLPs, in which blocks over tokens follow the guide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Gate = Literal["silu", "gelu"]


@dataclass(frozen=True)
class Style:
    """Forms of norms and hidden units.

    Attributes:
        epsilon: of RMS norms, added to the mean square; None for layer norms.
        gate: activation of the gate of gated units (SwiGLU, GeGLU); None for plain GELU units.
    """

    epsilon: float | None = None
    gate: Gate | None = None


PLAIN = Style()
