"""Peak memory against closed forms of small chains."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.costs import measure_peak_memory
from nas_theseus.errors import CostError
from nas_theseus.values.architecture import Boundary


@pytest.mark.parametrize("batch", [1, 8])
def test_chain_of_linear_maps(batch: int) -> None:
    widths = (16, 64, 32, 8)
    pairs = list(itertools.pairwise(widths))
    chain = nn.Sequential(*(nn.Linear(a, b) for a, b in pairs))
    params = sum(a * b + b for a, b in pairs)
    # The caller holds the input; each map holds its own inlet and outlet.
    alive = widths[0] + max(widths[1], *(a + b for a, b in pairs[1:]))
    peak = measure_peak_memory(chain, Boundary((16,)), batch=batch, device="cpu")
    assert peak == 4 * (params + batch * alive)


def test_views_and_in_place_work_take_no_memory() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 4)), nn.ReLU())
    assert measure_peak_memory(module, Boundary((16,)), device="cpu") == 4 * (16 + 16)
    module[2] = nn.ReLU(inplace=True)
    assert measure_peak_memory(module, Boundary((16,)), device="cpu") == 4 * 16


def test_residual_is_held_over_its_branch() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(8, 32, bias=False)
            self.down = nn.Linear(32, 8, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            start = x * 2
            return start + self.down(self.up(start))

    # Worst at the second map: input, start, 32 wide, 8 wide.
    peak = measure_peak_memory(Residual(), Boundary((8,)), device="cpu")
    assert peak == 4 * (2 * 8 * 32 + 8 + 8 + 32 + 8)


def test_state_counts_buffers_and_shared_storages_once() -> None:
    tied = nn.Linear(8, 8, bias=False)
    assert measure_peak_memory(nn.Sequential(tied, tied), Boundary((8,)), device="cpu") == 4 * (
        64 + 8 + 8 + 8
    )
    norm = nn.BatchNorm1d(4)  # 2 vectors of parameters, 2 of statistics, one int64 counter
    peak = measure_peak_memory(norm, Boundary((4,)), device="cpu")
    assert peak >= 4 * (4 * 4 + 4 + 4) + 8
    assert norm.training
    assert norm.num_batches_tracked.item() == 0


def test_the_peak_repeats_and_encoder_layers_show_their_insides() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 256, batch_first=True).requires_grad_(False)
    peaks = {measure_peak_memory(layer, Boundary((8, 16)), device="cpu") for _ in range(3)}
    assert len(peaks) == 1
    state = 4 * sum(parameter.numel() for parameter in layer.parameters())
    assert peaks.pop() - state >= 4 * 8 * 256


def test_other_devices_and_batches_are_refused() -> None:
    with pytest.raises(CostError, match="cpu and cuda"):
        measure_peak_memory(nn.Linear(4, 4), Boundary((4,)), device="meta")
    with pytest.raises(ValueError, match="batch"):
        measure_peak_memory(nn.Linear(4, 4), Boundary((4,)), batch=0, device="cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_peak_is_near_the_closed_form_and_ignores_other_tensors() -> None:
    other = torch.zeros(1 << 24, device="cuda")
    chain = nn.Sequential(nn.Linear(1024, 4096, bias=False), nn.Linear(4096, 1024, bias=False))
    peak = measure_peak_memory(chain, Boundary((1024,)), batch=256, device="cuda")
    closed = 4 * (2 * 1024 * 4096 + 256 * (1024 + 4096 + 1024))
    assert closed <= peak <= closed * 1.2
    assert other.numel() == 1 << 24
