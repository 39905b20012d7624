"""What layers inside a part read, against their own outputs; and the norm behind them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_theseus.blocks import reading
from nas_theseus.errors import TransformError


class PadsItself(nn.Conv2d):
    """A convolution that pads at one side only, as libraries do for TensorFlow's weights."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(F.pad(input, [0, 1, 0, 1]), self.weight, self.bias, self.stride)


class Standardised(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight - self.weight.mean(), self.bias)


SIZES = {1: (11,), 2: (9, 10), 3: (5, 6, 4)}


def inputs(axes: int, examples: int = 20) -> Tensor:
    return torch.randn(examples, 4, *SIZES[axes], generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
        nn.Conv2d(4, 6, 3, padding="same", dilation=2),
        nn.Conv2d(4, 6, 3, padding="valid", bias=False),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv1d(4, 6, 3, 2, 1),
        nn.Conv3d(4, 6, (1, 3, 1), padding=(0, 1, 0)),
        PadsItself(4, 6, 2, 2),
    ],
    ids=str,
)
def test_rows_times_weight_are_the_layer_s_outputs(layer: nn.Conv2d) -> None:
    part = nn.Sequential(nn.ReLU(inplace=True), layer)
    features = inputs(layer.weight.ndim - 2)
    before = features.clone()
    rows = reading.rows_read(part, "1", features)
    assert torch.equal(features, before)
    with torch.no_grad():
        outputs = part(features.clone()).movedim(1, -1).flatten(0, -2)
        bias = 0.0 if layer.bias is None else layer.bias
        torch.testing.assert_close(rows.flatten(1) @ layer.weight.flatten(1).T + bias, outputs)


def test_a_linear_layer_reads_the_last_axis() -> None:
    part = nn.Sequential(nn.Linear(5, 7))
    features = torch.randn(9, 3, 4, 5)
    rows = reading.rows_read(part, "0", features)
    assert torch.equal(rows, features.flatten(0, 2).unsqueeze(-1))


def test_positions_are_sampled_evenly_and_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "_POSITIONS", 90)
    part = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1))
    features = inputs(2, examples=64)
    features += torch.arange(64.0).view(-1, 1, 1, 1)  # tells the examples apart
    rows = reading.rows_read(part, "0", features)
    assert len(rows) == pytest.approx(90, abs=4)
    assert torch.equal(rows, reading.rows_read(part, "0", features))
    # The middle tap is one pixel of one example, and they come from all parts of the sample.
    examples = rows[:, :, 4].mean(1)
    assert [int((examples // 16 == quarter).sum()) for quarter in range(4)] == pytest.approx(
        [22] * 4, abs=4
    )


def test_shapes_alone_are_told_with_few_examples() -> None:
    part = nn.Sequential(nn.Conv2d(4, 6, 3))
    assert reading.rows_read(part, "0", inputs(2, examples=7)).shape == (0, 4, 9)


def test_a_part_s_mode_is_restored() -> None:
    part = nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)).train()
    reading.rows_read(part, "0", inputs(2))
    assert part.training and int(part[1].num_batches_tracked) == 0


def test_a_layer_with_a_computed_weight_is_refused() -> None:
    for layer in (Standardised(4, 6, 1), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 1))):
        with pytest.raises(TransformError, match="'0' does not run, or not with its own weight"):
            reading.rows_read(nn.Sequential(layer), "0", inputs(2))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm, self.free = nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.norm(y) + y + self.free(self.second(x))


def test_only_a_norm_that_alone_reads_a_layer_is_behind_it() -> None:
    part = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.ReLU())
    assert reading.norm_behind(part, "0") is part[1]
    assert reading.norm_behind(part, "2") is None
    branches = Branches()
    assert reading.norm_behind(branches, "first") is None
    assert reading.norm_behind(branches, "second") is None  # it has no fixed statistics


def test_a_norm_that_runs_twice_is_behind_no_layer() -> None:
    shared = nn.BatchNorm2d(4)
    part = nn.Sequential(nn.Conv2d(4, 4, 1), shared, nn.Conv2d(4, 4, 1), shared)
    assert reading.norm_behind(part, "0") is None and reading.norm_behind(part, "2") is None


@pytest.mark.parametrize("bias", [True, False])
def test_a_shift_is_added_behind_the_layer(bias: bool) -> None:
    part = nn.Sequential(nn.Conv2d(4, 6, 1, bias=bias), nn.BatchNorm2d(6)).eval()
    features, shift = inputs(2), torch.arange(6.0)
    with torch.no_grad():
        wanted = part[1](part[0](features) + shift.view(-1, 1, 1))
        reading.shift_outputs(part[0], part[1], shift)
        torch.testing.assert_close(part(features), wanted)


def test_errors_count_as_the_norm_behind_scales_them() -> None:
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 0.0]))
        norm.running_var.copy_(torch.tensor([4.0, 1.0, 1.0]))
    found = reading.output_shares(norm, 3)
    torch.testing.assert_close(found.float(), torch.tensor([0.25, 4.0, 0.0]), atol=1e-4, rtol=1e-4)
    assert reading.output_shares(None, 2).tolist() == [1, 1]
