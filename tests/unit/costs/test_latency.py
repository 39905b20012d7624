"""Latency: what is measured, and what is left as it was."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.costs import measure_latency
from nas_theseus.values.architecture import Boundary


class Sleep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, bool, tuple[int, ...]]] = []
        self.weight = nn.Parameter(torch.zeros(3))

    def __deepcopy__(self, memo: dict[int, object]) -> Sleep:
        twin = Sleep()
        twin.seen = self.seen  # shared, so that the test sees the measured forwards
        return twin

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.training, torch.is_inference_mode_enabled(), tuple(x.shape)))
        time.sleep(0.005)
        return x + self.weight


def test_times_forwards_in_evaluation_and_inference_mode() -> None:
    module = Sleep().train()
    threads = torch.get_num_threads()
    latency = measure_latency(
        module, Boundary((3,)), batch=2, device="cpu", threads=2, warmup=2, repeats=5
    )
    assert 5 <= latency.p10_ms <= latency.median_ms <= latency.p90_ms
    assert (latency.batch, latency.threads, latency.device) == (2, 2, "cpu")
    assert module.seen == [(False, True, (2, 3))] * 7
    assert module.training
    assert torch.get_num_threads() == threads


def test_thread_count_is_restored_after_a_failure() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        measure_latency(nn.Linear(4, 4), Boundary((5,)), device="cpu", threads=threads + 1)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    "wrong", [{"repeats": 0}, {"warmup": -1}, {"threads": 0}, {"threads": -2}, {"batch": 0}]
)
def test_wrong_counts_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        measure_latency(nn.Linear(4, 4), Boundary((4,)), device="cpu", **wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_copies_the_module_and_leaves_it() -> None:
    module = nn.Linear(64, 64)
    latency = measure_latency(module, Boundary((64,)), device="cuda", repeats=5)
    assert 0 < latency.p10_ms <= latency.median_ms <= latency.p90_ms
    assert latency.device.startswith("cuda")
    assert module.weight.device.type == "cpu"
