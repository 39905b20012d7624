"""Latency of one pass that is measured block by block."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.costs.measures import block_latency_ms
from nas_theseus.costs.measures.block_latency_ms import BlockLatencyMs
from nas_theseus.costs.taking import measured_on_blocks
from nas_theseus.errors import CostError
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.cost_measure import BlockMeasuredCost, CheckedCost

CPU = torch.device("cpu")
IMAGE = Boundary((3, 8, 8))


class Seen(nn.Module):
    """Passes inputs on and notes their shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return x


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ZeroDivisionError("no")


def test_it_is_measured_on_blocks_and_added_up() -> None:
    measure = BlockLatencyMs()
    assert isinstance(measure, BlockMeasuredCost) and isinstance(measure, CheckedCost)
    assert measure.additive
    measure.check_block(nn.Conv2d(3, 3, 1), IMAGE)


@pytest.mark.parametrize("batch", [1, 4])
def test_blocks_run_one_after_the_other_on_the_batch(batch: int) -> None:
    first, second = Seen(), Seen()
    blocks = [first, nn.Conv2d(3, 5, 3), second]
    assert measured_on_blocks(BlockLatencyMs(batch), blocks, IMAGE, CPU, 1) > 0
    assert set(first.shapes) == {(batch, 3, 8, 8)}
    assert set(second.shapes) == {(batch, 5, 6, 6)}
    assert len(first.shapes) >= 10


def test_the_median_is_of_the_pass_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[object] = []

    def timed(run: Callable[[], object], device: torch.device, threads: int | None) -> float:
        runs.append(run())
        return 3.5

    monkeypatch.setattr(block_latency_ms, "median_ms", timed)
    block = nn.Conv2d(3, 2, 1).eval()
    for runtime in ("torch", "compile", "onnxruntime"):
        found = BlockLatencyMs(2, runtime).measure_blocks([block], IMAGE, CPU, 1)  # type: ignore[arg-type]
        assert found == 3.5
    eager, compiled, exported = runs
    assert isinstance(eager, Tensor) and isinstance(compiled, Tensor) and isinstance(exported, list)
    # The same network runs in all.
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(exported[0]), eager, rtol=1e-4, atol=1e-5)


def test_onnxruntime_runs_a_block_without_weights() -> None:
    blocks = [nn.Identity(), nn.ReLU()]
    assert BlockLatencyMs(runtime="onnxruntime").measure_blocks(blocks, IMAGE, CPU, 1) > 0


def test_compiled_blocks_of_one_kind_have_programs_of_their_own() -> None:
    """Otherwise torch makes one program for all sizes, or falls back to eager after a few."""
    measure = BlockLatencyMs(runtime="compile")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for width in (2, 3, 4):
            assert measure.measure_blocks([nn.Conv2d(3, width, 1).eval()], IMAGE, CPU, 1) > 0


def test_bad_options_are_refused() -> None:
    with pytest.raises(CostError, match="batch must be at least 1, not 0"):
        BlockLatencyMs(batch=0)
    with pytest.raises(CostError, match="'torch' or 'compile' or 'onnxruntime', not 'tflite'"):
        BlockLatencyMs(runtime="tflite")  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_block_that_does_not_run_is_named(runtime: str) -> None:
    measure = BlockLatencyMs(3, runtime)  # type: ignore[arg-type]
    with pytest.raises(CostError, match=r"of Raises on .* at a batch of 3 cannot be measured"):
        measure.measure_blocks([Raises()], IMAGE, CPU, 1)


def test_a_missing_runtime_is_told_before_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CostError, match=r"pip install 'nas-theseus\[export\]'"):
        BlockLatencyMs(runtime="onnxruntime").check_block(nn.ReLU(), IMAGE)
    BlockLatencyMs().check_block(nn.ReLU(), IMAGE)


def test_onnxruntime_is_for_the_cpu() -> None:
    measure = BlockLatencyMs(runtime="onnxruntime")
    with pytest.raises(CostError, match="trials run on meta; use runtime='torch'"):
        measure.measure_blocks([nn.Conv2d(3, 3, 1)], IMAGE, torch.device("meta"), 1)
