"""Multiply-adds of one forward pass for one input."""

from __future__ import annotations

from torch import nn

from nas_theseus.costs.multiply_adds import count_macs
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction


class Macs:
    """Multiply-adds of one forward pass at batch 1, counted with fvcore."""

    name = "macs"
    unit = "multiply-adds"
    direction: Direction = "minimize"
    additive = True

    def count(self, module: nn.Module, inlet: Boundary) -> int:
        """Count with `count_macs`.

        Raises:
            CostError: an operator has no count.
        """
        return count_macs(module, inlet)


MEMBER = Macs()
