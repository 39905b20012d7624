"""A network that cannot be traced: the block, its part, the reason, and a remedy that works."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.blocks import Linear, block
from nas_theseus.blocks.simple import LinearBlock
from nas_theseus.errors import ExportError
from nas_theseus.export.format import write_format
from nas_theseus.guide.chain import Guide
from tests.unit.export.members import VECTOR, Between, member, needs_onnx

TRACED = ["torch-export", pytest.param("onnx", marks=needs_onnx)]


class LoopsOverExamples(LinearBlock):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return torch.stack([y[i] for i in range(x.shape[0])])


class Branches(LinearBlock):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if x.sum() > 0 else y * 2


class UsesNumbers(LinearBlock):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(x.detach().numpy().mean() > -1e9)


class WholeBatch(LinearBlock):
    """The remedy for the loop."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).reshape(-1, *x.shape[1:])


class Where(LinearBlock):
    """The remedy for the branch."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return torch.where(x.sum() > 0, y, y * 2)


def second(kind: type[nn.Module]) -> object:
    """A network of two blocks, of which the second is the one that is tried."""
    parts = [("stem", Between(VECTOR, VECTOR)), ("head", Between(VECTOR, VECTOR))]
    return member(Guide(parts, VECTOR), Linear(), block(kind, name="mine"))


@pytest.mark.parametrize("name", TRACED)
@pytest.mark.parametrize(
    ("kind", "reason", "remedy"),
    [
        (LoopsOverExamples, "works for one batch size only", "operations on the whole batch"),
        (Branches, "branches on the values of a tensor", r"Use torch.where\(…\) in its forward"),
        (UsesNumbers, "cannot be traced by torch.export", "with torch operations on tensors alone"),
    ],
)
def test_the_block_its_part_and_the_remedy_are_named(
    tmp_path: Path, name: str, kind: type[nn.Module], reason: str, remedy: str
) -> None:
    path = tmp_path / "net"
    with pytest.raises(
        ExportError, match=rf"block 1: mine for part head {reason}.*{remedy}"
    ) as caught:
        write_format(second(kind), name, path)  # type: ignore[arg-type]
    assert "block 0" not in str(caught.value)
    assert str(caught.value).endswith("Other formats, which trace nothing: safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [LoopsOverExamples, Branches, UsesNumbers])
def test_the_other_format_that_is_named_takes_it(tmp_path: Path, kind: type[nn.Module]) -> None:
    checked = write_format(second(kind), "safetensors", tmp_path / "net")  # type: ignore[arg-type]
    assert checked.relative == 0


@pytest.mark.parametrize("name", TRACED)
@pytest.mark.parametrize("kind", [WholeBatch, Where])
def test_the_remedies_work(tmp_path: Path, name: str, kind: type[nn.Module]) -> None:
    assert write_format(second(kind), name, tmp_path / "net").relative < 1e-5  # type: ignore[arg-type]
