"""Wall time of one forward, measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from nas_theseus.costs.probe import eval_view
from nas_theseus.guide.chain import example_input
from nas_theseus.values.architecture import Boundary


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass over all repeats: median, 10th and 90th percentile.

    Attributes:
        threads: torch's intra-operator threads during the measurement.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    batch: int
    threads: int
    device: str


@contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Context with this number of intra-operator threads; None leaves it unchanged."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def elapsed_ms(run: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call: on CUDA the device's time between two events, else wall time."""
    if device.type == "cuda":
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        stop = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        with torch.cuda.device(device):
            start.record()
            run()
            stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop))
    began_ns = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - began_ns) / 1e6


def measure_latency(
    module: nn.Module,
    inlet: Boundary,
    *,
    batch: int = 1,
    device: torch.device | str,
    threads: int | None = None,
    warmup: int = 5,
    repeats: int = 30,
) -> Latency:
    """Time forward passes in evaluation and inference mode; module and thread count are restored.

    On CUDA, the device's time between two events is measured; elsewhere, wall time.

    Args:
        inlet: shape of one input; the module runs on (batch, *inlet.shape).
        device: where to measure; the module is copied there if it is elsewhere.
        threads: torch's intra-operator threads. Default: unchanged.
        warmup: number of forward passes before the measured ones.
        repeats: number of measured forward passes.

    Raises:
        ValueError: batch, threads or repeats < 1, or warmup < 0.
        CostError: the module cannot be copied.
    """
    least = {"repeats": (repeats, 1), "warmup": (warmup, 0)}
    if threads is not None:
        least["threads"] = (threads, 1)
    for name, (value, minimum) in least.items():
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, not {value}")
    view = eval_view(module, torch.device(device))
    inputs = example_input(view, inlet, batch).to(device)
    with torch_threads(threads) as used, torch.inference_mode():
        for _ in range(warmup):
            view(inputs)
        if inputs.device.type == "cuda":
            torch.cuda.synchronize(inputs.device)
        times_ms = [elapsed_ms(lambda: view(inputs), inputs.device) for _ in range(repeats)]
    p10_ms, median_ms, p90_ms = (float(q) for q in np.percentile(times_ms, (10, 50, 90)))
    return Latency(median_ms, p10_ms, p90_ms, batch, used, str(inputs.device))
