"""Peak memory of one forward pass for one input."""

from __future__ import annotations

import torch
from torch import nn

from nas_theseus.costs.memory import measure_peak_memory
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction


class PeakMemoryBytes:
    """Bytes of weights, input, and activations at the moment when they take most memory."""

    name = "peak_memory_bytes"
    unit = "bytes"
    direction: Direction = "minimize"
    additive = False

    def measure(
        self, network: nn.Module, inlet: Boundary, device: torch.device, _threads: int | None
    ) -> int:
        """Measure with `measure_peak_memory`.

        Raises:
            CostError: peak memory cannot be measured on this kind of device.
        """
        return measure_peak_memory(network, inlet, device=device)


MEMBER = PeakMemoryBytes()
