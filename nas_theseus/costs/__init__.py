"""What a module costs to run: multiply-adds, parameters, latency and peak memory."""

from __future__ import annotations

from torch import nn

from nas_theseus.costs.latency import Latency, measure_latency
from nas_theseus.costs.memory import measure_peak_memory
from nas_theseus.costs.multiply_adds import count_macs
from nas_theseus.costs.parameters import count_params
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.outcomes import Cost

__all__ = [
    "Latency",
    "cost_of",
    "count_macs",
    "count_params",
    "measure_latency",
    "measure_peak_memory",
]


def cost_of(module: nn.Module, inlet: Boundary) -> Cost:
    """The counted costs: multiply-adds for one input, and parameters.

    Raises:
        CostError: the multiply-adds cannot be counted truthfully.
    """
    return Cost({"macs": count_macs(module, inlet), "params": count_params(module)})
