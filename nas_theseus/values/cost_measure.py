"""What a cost is: its name and unit, and how it is counted or measured.

The package's costs are the files of `costs/measures`. A space file brings its own by
``minimize(MyCost())``. The protocol stands here and not in `costs`, since `space`, which takes
such objects, may not import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from nas_theseus.values.goals import Direction

if TYPE_CHECKING:  # commands that need no torch do not wait for it
    import torch
    from torch import nn

    from nas_theseus.values.architecture import Boundary


class CostMeasure(Protocol):
    """A cost of one input at batch 1: a `CountedCost` or a `MeasuredCost`.

    Attributes:
        name: an identifier, as constraints, ``--where`` and MLflow take it: ``energy_mj``.
        unit: of its numbers, for people: ``mJ``.
        direction: whether less or more is better.
        additive: whether an architecture's cost is the sum over its blocks, so that it is known
            before anything runs. Otherwise it is measured once on each finished network.
    """

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def direction(self) -> Direction: ...
    @property
    def additive(self) -> bool: ...


class CountedCost(CostMeasure, Protocol):
    """An additive cost, such as multiply-adds: counted on each block, summed over blocks."""

    def count(self, module: nn.Module, inlet: Boundary, /) -> float:
        """The cost of one block.

        Args:
            module: the block, a copy in evaluation mode that shares the block's parameters.
            inlet: shape of one input of the block.

        Returns:
            A finite number of at least 0; whole numbers are summed exactly.

        Raises:
            CostError: it cannot be counted truthfully.
        """


@runtime_checkable
class SharedCost(Protocol):
    """An additive cost of which blocks may share a part, such as tied parameters."""

    def shared(self, module: nn.Module, earlier: Sequence[nn.Module], /) -> float:
        """How much of a block's cost is in earlier blocks already, so that it counts once."""


class MeasuredCost(CostMeasure, Protocol):
    """A cost of the whole network on one device, such as latency."""

    def measure(
        self, network: nn.Module, inlet: Boundary, device: torch.device, threads: int | None, /
    ) -> float | Mapping[str, float]:
        """The cost of a finished network.

        Args:
            network: a copy in evaluation mode on the device. Where the candidate is on that device
                too, the copy shares its parameters, so do not change them.
            inlet: shape of one input, without the batch dimension.
            device: where trials run.
            threads: torch's threads to measure with; None for as many as there are now.

        Returns:
            A finite number; or several by name, among them the cost under its own name. The others
            are recorded beside it as metrics, such as its spread.

        Raises:
            CostError: it cannot be measured on this device.
        """
