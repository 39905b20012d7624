"""Protocols of costs: name and unit, and how a cost is counted or measured.

The package's costs are the files of `costs/measures`. A space file adds its own with
``minimize(MyCost())``. The protocols are not in `costs`, since `space`, which takes such objects,
must not import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from nas_theseus.values.goals import Direction

if TYPE_CHECKING:  # so that commands that do not need torch start quickly
    import torch
    from torch import nn

    from nas_theseus.values.architecture import Boundary


class CostMeasure(Protocol):
    """A cost for one input at batch 1: a `CountedCost`, `BlockMeasuredCost` or `MeasuredCost`.

    Attributes:
        name: an identifier for constraints, ``--where`` and MLflow, such as ``energy_mj``.
        unit: unit of its numbers, such as ``mJ``.
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
            CostError: the cost cannot be counted correctly.
        """


@runtime_checkable
class SharedCost(Protocol):
    """An additive cost that blocks can share in part, such as tied parameters."""

    def shared(self, module: nn.Module, earlier: Sequence[nn.Module], /) -> float:
        """The part of a block's cost that is already counted in earlier blocks."""


@runtime_checkable
class BlockMeasuredCost(CostMeasure, Protocol):
    """An additive cost that is measured, such as a token's latency: on each block, then summed.

    Each block is measured once a search, on the device of the trials, before the first trial. The
    sum is compared with whole networks, which are measured as well.
    """

    def measure_blocks(
        self,
        blocks: Sequence[nn.Module],
        inlet: Boundary,
        device: torch.device,
        threads: int | None,
        /,
    ) -> float:
        """The cost of running blocks one after the other: of one block, or of a whole network.

        Args:
            blocks: copies in evaluation mode on the device.
            inlet: shape of one input of the first block, without the batch dimension.
            device: device of the trials.
            threads: torch's threads during the measurement; None to leave them unchanged.

        Returns:
            A finite number of at least 0.

        Raises:
            CostError: the cost cannot be measured on this device, or of these blocks.
        """


@runtime_checkable
class CheckedCost(Protocol):
    """A cost that can tell without measuring that a block has none."""

    def check_block(self, module: nn.Module, inlet: Boundary, /) -> None:
        """Refuse a block, quickly and on the CPU.

        Raises:
            CostError: why the cost cannot be measured of this block, and what to do.
        """


class MeasuredCost(CostMeasure, Protocol):
    """A cost of the whole network on one device, such as latency."""

    def measure(
        self, network: nn.Module, inlet: Boundary, device: torch.device, threads: int | None, /
    ) -> float | Mapping[str, float]:
        """The cost of a finished network.

        Args:
            network: a copy in evaluation mode on the device. If the candidate is on the same
                device, the copy shares its parameters, so do not change them.
            inlet: shape of one input, without the batch dimension.
            device: device of the trials.
            threads: torch's threads during the measurement; None to leave them unchanged.

        Returns:
            A finite number; or several by name, including the cost under its own name. The others,
            such as its spread, are recorded as metrics.

        Raises:
            CostError: the cost cannot be measured on this device.
        """
