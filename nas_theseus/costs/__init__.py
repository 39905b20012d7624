"""What a module costs to run: multiply-adds, parameters, latency and peak memory."""

from __future__ import annotations

from collections.abc import Collection

import torch
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
    "measured_costs",
]


def measured_costs(
    names: Collection[str],
    module: nn.Module,
    inlet: Boundary,
    device: torch.device,
    threads: int | None = None,
) -> dict[str, float]:
    """Those of latency and peak memory of one input that are named.

    Args:
        threads: torch's for the latency; as many as it has now when None.

    Returns:
        ``latency_ms`` with its spread as ``latency_ms_p10`` and ``latency_ms_p90``, and
        ``peak_memory_bytes``.

    Raises:
        CostError: peak memory cannot be measured on this device.
    """
    found: dict[str, float] = {}
    if "latency_ms" in names:
        latency = measure_latency(module, inlet, device=device, threads=threads)
        found["latency_ms"] = latency.median_ms
        found["latency_ms_p10"], found["latency_ms_p90"] = latency.p10_ms, latency.p90_ms
    if "peak_memory_bytes" in names:
        found["peak_memory_bytes"] = measure_peak_memory(module, inlet, device=device)
    return found


def cost_of(module: nn.Module, inlet: Boundary) -> Cost:
    """The costs that are counted, not measured: multiply-adds of one input, and parameters.

    Raises:
        CostError: the multiply-adds cannot be counted truthfully.
    """
    return Cost(macs=count_macs(module, inlet), params=count_params(module))
