"""Latency: milliseconds of one forward pass for one input."""

from __future__ import annotations

import torch
from torch import nn

from nas_theseus.costs.latency import measure_latency
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction


class LatencyMs:
    """Median wall time of one forward pass at batch 1, with its spread."""

    name = "latency_ms"
    unit = "ms"
    direction: Direction = "minimize"
    additive = False

    def measure(
        self, network: nn.Module, inlet: Boundary, device: torch.device, threads: int | None
    ) -> dict[str, float]:
        """Median, 10th and 90th percentile of `measure_latency`."""
        latency = measure_latency(network, inlet, device=device, threads=threads)
        return {
            "latency_ms": latency.median_ms,
            "latency_ms_p10": latency.p10_ms,
            "latency_ms_p90": latency.p90_ms,
        }


MEMBER = LatencyMs()
