"""Bytes of all weights in memory, tied ones counted once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from nas_theseus.costs.parameters import element_bytes
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of all parameters; a shared parameter counts once.

    Attributes:
        dtype: type in which weights will be stored, such as ``bfloat16``. Default: as they are.
    """

    dtype: str | None = None

    name = "weight_bytes"
    unit = "bytes"
    direction: Direction = "minimize"
    additive = True

    def count(self, module: nn.Module, _inlet: Boundary) -> int:
        """The bytes of a block's parameters."""
        return self._bytes(module)

    def shared(self, module: nn.Module, earlier: Sequence[nn.Module]) -> int:
        """Bytes of a module's parameters that it shares with earlier modules."""
        return self._bytes(*earlier) + self._bytes(module) - self._bytes(*earlier, module)

    def _bytes(self, *modules: nn.Module) -> int:
        own = {id(p): p for module in modules for p in module.parameters()}
        return sum(p.numel() * element_bytes(self.dtype, p) for p in own.values())


MEMBER = WeightBytes()
