"""ONNX files: names, a free batch size, metadata, and operators that ONNX lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nas_theseus.blocks import Linear, block
from nas_theseus.blocks.simple import LinearBlock
from nas_theseus.errors import ExportError
from nas_theseus.export.format import metadata, write_format
from tests.unit.export.members import HALF, MAP, VECTOR, between, needs_onnx


@needs_onnx
def test_onnx_names_its_tensors_and_its_batch(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    found = between(MAP, HALF, Linear())
    write_format(found, "onnx", tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    for tensor, name in ((model.graph.input[0], "inputs"), (model.graph.output[0], "outputs")):
        assert tensor.name == name
        assert tensor.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {p.key: p.value for p in model.metadata_props} | metadata(found) == {
        p.key: p.value for p in model.metadata_props
    }


class Bessel(LinearBlock):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(super().forward(x))


@needs_onnx
def test_an_operator_that_onnx_lacks_is_named_and_others_offered(tmp_path: Path) -> None:
    found = between(VECTOR, VECTOR, block(Bessel))
    with pytest.raises(
        ExportError,
        match=r"bessel_j0 of 0: bessel for part part; other formats: safetensors, torch-export",
    ):
        write_format(found, "onnx", tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
    assert write_format(found, "torch-export", tmp_path / "net.pt2").relative == 0
