"""ONNX files: names, a free batch size, metadata, and operators that ONNX lacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_theseus.blocks import Keep, Linear, block
from nas_theseus.blocks.simple import LinearBlock
from nas_theseus.errors import ExportError
from nas_theseus.export.format import metadata, write_format
from nas_theseus.export.member import Member
from nas_theseus.guide.chain import Guide
from nas_theseus.tasks import digits
from nas_theseus.tasks.score import score
from nas_theseus.tasks.unlabelled import unlabelled
from tests.unit.export.members import HALF, IDS, MAP, TOKENS, VECTOR, between, member, needs_onnx


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


@pytest.fixture(scope="module")
def of_digits() -> Member:
    """A convolutional network, trained for a few steps."""
    torch.manual_seed(0)
    task = digits()
    parts = [
        ("conv", nn.Sequential(nn.Conv2d(1, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())),
        ("head", nn.Sequential(nn.Flatten(), nn.Linear(32 * 16, 10))),
    ]
    found = member(Guide(parts, task.inlet), Keep(), Keep())
    optimizer = torch.optim.Adam(found.network.parameters(), 3e-3)
    for epoch in range(6):
        for batch in task.batches("train", 64, seed=epoch):
            optimizer.zero_grad()
            loss = functional.cross_entropy(found.network.train()(batch.inputs), batch.targets)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    found.network.eval()
    return replace(found, space=replace(found.space, task=task))


@needs_onnx
def test_int8_is_smaller_and_its_quality_is_measured_again(
    of_digits: Member, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    exact = write_format(of_digits, "onnx", tmp_path / "exact.onnx")
    small = write_format(of_digits, "onnx", tmp_path / "small.onnx", options={"dtype": "int8"})
    weights = {
        path: [w.data_type for w in onnx.load(tmp_path / path).graph.initializer if len(w.dims) > 1]
        for path in ("exact.onnx", "small.onnx")
    }
    assert onnx.TensorProto.FLOAT in weights["exact.onnx"]
    assert set(weights["small.onnx"]) == {onnx.TensorProto.INT8}
    assert small.size_bytes < exact.size_bytes / 2
    assert exact.quality == {} and exact.relative < 1e-4 < small.relative < 0.1
    before, after = small.quality["accuracy"]
    task = of_digits.space.task
    assert before == score(of_digits.network, task, "validation") > 0.85
    assert abs(before - after) < 0.03
    # The file itself has that quality.
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    batch = next(task.batches("validation", 1000))
    [logits] = session.run(None, {"inputs": batch.inputs.numpy()})
    right = (torch.from_numpy(logits).argmax(1) == batch.targets).float().mean()
    assert float(right) == pytest.approx(after)
    kept = {p.key: p.value for p in onnx.load(tmp_path / "small.onnx").metadata_props}
    assert metadata(of_digits).items() <= kept.items()


@needs_onnx
def test_int8_without_labels_is_compared_with_the_network(
    of_digits: Member, tmp_path: Path
) -> None:
    """The guide of a network that is loaded again has random weights."""
    task = unlabelled(digits(), of_digits.space.guide, metric="agreement")
    found = replace(of_digits, space=replace(of_digits.space, task=task))
    checked = write_format(found, "onnx", tmp_path / "net.onnx", options={"dtype": "int8"})
    own, rounded = checked.quality["agreement"]
    assert own == 1.0 and 0.9 < rounded <= 1.0
    assert checked.quality["divergence"][0] == pytest.approx(0, abs=1e-5)
    assert 1e-6 < checked.quality["divergence"][1] < 0.1


@needs_onnx
def test_int8_of_a_network_without_feature_maps_needs_no_calibration(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    found = between(TOKENS, TOKENS, Linear())
    task = found.space.task
    task.metric, task.meter = "mse", lambda: SquaredError()  # type: ignore[attr-defined]
    checked = write_format(found, "onnx", tmp_path / "net.onnx", options={"dtype": "int8"})
    assert 1e-4 < checked.relative < 0.1
    operators = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert "DynamicQuantizeLinear" in operators


@needs_onnx
def test_int8_of_maps_of_ids_is_calibrated_on_ids(tmp_path: Path) -> None:
    maps = nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv2d(1, 4, 3, padding=1))
    found = member(Guide([("embed", nn.Embedding(11, 6)), ("maps", maps)], IDS), Keep(), Keep())
    task = found.space.task
    task.metric, task.meter = "mse", lambda: SquaredError()  # type: ignore[attr-defined]
    checked = write_format(found, "onnx", tmp_path / "net.onnx", options={"dtype": "int8"})
    assert checked.relative < 0.1


class SquaredError:
    """Mean square of outputs, whose targets are 0."""

    def reset(self) -> None:
        self.squares: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        del targets
        self.squares.append(outputs.square().flatten(1).mean(1))

    def compute(self) -> Tensor:
        return torch.cat(self.squares).mean()


def test_another_dtype_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"dtype float32 or int8, not 'float16'"):
        write_format(
            between(VECTOR, VECTOR, Linear()),
            "onnx",
            tmp_path / "net.onnx",
            options={"dtype": "float16"},
        )
