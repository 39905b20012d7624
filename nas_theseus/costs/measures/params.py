"""Number of parameters, tied ones counted once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from nas_theseus.costs.parameters import count_params
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction


class Params:
    """Elements of all parameters; a shared parameter counts once."""

    name = "params"
    unit = "parameters"
    direction: Direction = "minimize"
    additive = True

    def count(self, module: nn.Module, _inlet: Boundary) -> int:
        """Count with `count_params`."""
        return count_params(module)

    def shared(self, module: nn.Module, earlier: Sequence[nn.Module]) -> int:
        """Number of a module's parameters that it shares with earlier modules."""
        return count_params(*earlier) + count_params(module) - count_params(*earlier, module)


MEMBER = Params()
