"""Programs of torch.export: their metadata, and networks that cannot be traced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nas_theseus.blocks import Linear, block
from nas_theseus.blocks.simple import LinearBlock
from nas_theseus.errors import ExportError
from nas_theseus.export.format import metadata, write_format
from nas_theseus.export.formats.torch_export import METADATA_FILE
from tests.unit.export.members import HALF, MAP, VECTOR, between


def test_torch_export_carries_the_same_metadata(tmp_path: Path) -> None:
    found = between(MAP, HALF, Linear())
    write_format(found, "torch-export", tmp_path / "net.pt2")
    extra = {METADATA_FILE: ""}
    torch.export.load(tmp_path / "net.pt2", extra_files=extra)
    assert json.loads(extra[METADATA_FILE]) == metadata(found)


class Branches(LinearBlock):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)
        return out if float(x.sum()) > 0 else -out


def test_a_network_that_branches_on_its_data_is_refused_by_torch_export(tmp_path: Path) -> None:
    found = between(VECTOR, VECTOR, block(Branches))
    with pytest.raises(
        ExportError,
        match="written as torch-export: block 0: branches for part part branches on the values "
        "of a tensor.*: safetensors",
    ):
        write_format(found, "torch-export", tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []
    assert write_format(found, "safetensors", tmp_path / "net").relative == 0
