"""Peak memory of one forward of one input."""

from __future__ import annotations

import torch
from torch import nn

from nas_theseus.costs.memory import measure_peak_memory
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction


class PeakMemoryBytes:
    """Bytes of weights, input and the activations alive at the worst moment."""

    name = "peak_memory_bytes"
    unit = "bytes"
    direction: Direction = "minimize"
    additive = False

    def measure(
        self, network: nn.Module, inlet: Boundary, device: torch.device, _threads: int | None
    ) -> int:
        """As `measure_peak_memory`.

        Raises:
            CostError: it cannot be measured on this kind of device.
        """
        return measure_peak_memory(network, inlet, device=device)


MEMBER = PeakMemoryBytes()
