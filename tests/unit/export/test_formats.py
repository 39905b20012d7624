"""Every block family in every format, on inputs of its task; what cannot be written is refused."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors
import torch
from torch import Tensor, nn

from nas_theseus.blocks import (
    MLP,
    Basic,
    BlockFamily,
    Bottleneck,
    Depthwise,
    Identity,
    Keep,
    Linear,
    Pointwise,
    Pool,
    TokenMLP,
    block,
)
from nas_theseus.blocks.simple import LinearBlock
from nas_theseus.conversion.target import assemble
from nas_theseus.errors import ExportError, StorageError
from nas_theseus.export import formats
from nas_theseus.export.formats import FORMATS, write_format
from nas_theseus.export.member import Member
from nas_theseus.guide.chain import Guide
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.tasks.task import Device, Digest, Splits, SplitTask
from nas_theseus.values.architecture import Architecture, BlockChoice, Boundary, Span
from nas_theseus.values.outcomes import Cost, Evaluation

MAP = Boundary((4, 8, 8))
HALF = Boundary((6, 4, 4))
SMALL = Boundary((4, 4, 4))
TOKENS = Boundary((5, 6))
VECTOR = Boundary((7,))
IDS = Boundary((5,), integer=True)

# Without the packages of the extra `export`, all but ONNX is tested.
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(need) is None for need in FORMATS["onnx"].needs),
    reason="the extra 'export' is not installed",
)
NAMES = [pytest.param(n, marks=needs_onnx if n == "onnx" else ()) for n in FORMATS]

BLOCKS = [
    (Basic(), MAP, HALF),
    (Bottleneck(), MAP, MAP),
    (Depthwise(expand=2, kernel=5), MAP, HALF),
    (Pointwise(), MAP, HALF),
    (TokenMLP(hidden=5), MAP, HALF),
    (TokenMLP(hidden=5), TOKENS, TOKENS),
    (TokenMLP(hidden=5), MAP, TOKENS),
    (MLP(), MAP, VECTOR),
    (MLP(), TOKENS, VECTOR),
    (Linear(), MAP, HALF),
    (Linear(), TOKENS, TOKENS),
    (Identity(), TOKENS, TOKENS),
    (Pool(), MAP, SMALL),
]


class Between(nn.Module):
    """A guide's part between any two shapes."""

    def __init__(self, inlet: Boundary, outlet: Boundary) -> None:
        super().__init__()
        self.shape = outlet.shape
        self.last = nn.Linear(torch.Size(inlet.shape).numel(), torch.Size(outlet.shape).numel())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(x.flatten(1))
        return out.reshape(-1, *self.shape)


@dataclass(frozen=True)
class Inputs:
    """Examples of any inlet."""

    inlet: Boundary
    indexed: bool = True

    def __len__(self) -> int:
        return 9

    def select(
        self, order: Tensor, batch_size: int, device: Device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1)
        shape = (len(self), *self.inlet.shape)
        drawn = (
            torch.randint(0, 11, shape, generator=generator)
            if self.inlet.integer
            else torch.randn(shape, generator=generator)
        )
        for chosen in order.split(batch_size):
            yield drawn[chosen].to(device), torch.zeros(len(chosen)).to(device)

    def update(self, digest: Digest) -> None:
        digest.update(repr(self.inlet).encode())


class AnyInputs(SplitTask):
    """A task of which only the inputs matter here."""

    name, metric, direction = "any", "accuracy", "maximize"

    def __init__(self, inlet: Boundary, outputs: Boundary) -> None:
        self.inlet, self.outputs = inlet, outputs

    def load(self) -> Splits:
        return Splits(*[Inputs(self.inlet)] * 3)


def member(guide: Guide, *families: BlockFamily) -> Member:
    """A found network with these blocks, one for each part of the guide."""
    task = AnyInputs(guide.boundaries[0], guide.boundaries[-1])
    space = SearchSpace(guide=guide, task=task, blocks=families)  # type: ignore[arg-type]
    architecture = Architecture(
        tuple(
            BlockChoice(Span(index, index + 1), family.name, next(family.variants()))
            for index, family in enumerate(families)
        )
    )
    network = assemble(space, architecture, 0)
    with torch.no_grad():  # statistics other than a new batch norm's
        network.train()(next(task.batches("train", 9)).inputs)
    found = Evaluation(architecture, "r", 0, {"val_accuracy": 0.5}, Cost(10, 5), 0, 0.1)
    return Member(network.eval(), space, found)


def between(inlet: Boundary, outlet: Boundary, *families: BlockFamily) -> Member:
    return member(Guide([("part", Between(inlet, outlet))], inlet), *families)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("family", "inlet", "outlet"), BLOCKS)
def test_every_block_in_every_format(
    name: str, family: BlockFamily, inlet: Boundary, outlet: Boundary, tmp_path: Path
) -> None:
    path = tmp_path / f"net{FORMATS[name].suffix}"
    found = between(inlet, outlet, family)
    checked = write_format(found, name, path)
    assert checked.size_bytes == path.stat().st_size > 0
    assert (checked.examples, checked.batch_sizes) == (9, (9, 1))
    assert checked.relative <= formats.TOLERANCE
    # The file holds this network at a batch size that was never tried.
    inputs = torch.randn(4, *inlet.shape)
    with torch.no_grad():
        torch.testing.assert_close(
            FORMATS[name].read(found, path)(inputs), found.network(inputs), rtol=1e-4, atol=1e-4
        )
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert str(Path(formats.__file__).parents[1]).encode() not in path.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_token_ids_and_kept_parts(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    guide = Guide(
        [
            ("embed", nn.Embedding(11, 6)),
            ("mix", nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)),
            ("head", nn.Linear(6, 11)),
        ],
        IDS,
    )
    found = member(guide, Keep(), Keep(), Linear())
    checked = write_format(found, name, tmp_path / "net")
    assert checked.examples == 9


def test_metadata_rebuilds_the_network_and_says_what_was_measured(tmp_path: Path) -> None:
    found = between(MAP, HALF, Basic(width=0.5))
    write_format(found, "safetensors", tmp_path / "net")
    with safetensors.safe_open(tmp_path / "net", "pt") as file:
        said = file.metadata()
    assert Architecture.from_json(json.loads(said["architecture"])) == found.evaluation.architecture
    assert json.loads(said["inlet"]) == {"shape": [4, 8, 8], "dtype": "float32"}
    assert json.loads(said["outlet"]) == {"shape": [6, 4, 4], "dtype": "float32"}
    assert said["task"] == "any"
    assert json.loads(said["values"]) == {"val_accuracy": 0.5, "macs": 10, "params": 5}


def test_torch_export_carries_the_same_metadata(tmp_path: Path) -> None:
    found = between(MAP, HALF, Linear())
    write_format(found, "torch-export", tmp_path / "net.pt2")
    extra = {formats.METADATA_FILE: ""}
    torch.export.load(tmp_path / "net.pt2", extra_files=extra)
    assert json.loads(extra[formats.METADATA_FILE]) == formats.metadata(found)


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
    assert {p.key: p.value for p in model.metadata_props} | formats.metadata(found) == {
        p.key: p.value for p in model.metadata_props
    }


class Hidden(nn.Module):
    """Random state that no state dict holds."""

    def __init__(self, inlet: Boundary, outlet: Boundary) -> None:
        super().__init__()
        self.last = nn.Linear(inlet.width, outlet.width)
        self.register_buffer("noise", torch.randn(inlet.width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(x * self.noise)
        return out


def test_a_file_that_gives_other_outputs_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(ExportError, match=r"differ by up to .*on 9 validation inputs.*onnx"):
        write_format(between(TOKENS, TOKENS, block(Hidden)), "safetensors", path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert write_format(between(TOKENS, TOKENS, block(Hidden)), "torch-export", path).examples == 9


class NotANumber(LinearBlock):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float("nan")


def test_outputs_that_are_not_numbers_are_not_equal(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="differ by up to nan"):
        write_format(between(VECTOR, VECTOR, block(NotANumber)), "safetensors", tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


class Bessel(LinearBlock):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(super().forward(x))


@needs_onnx
def test_an_operator_that_onnx_lacks_is_named_and_others_offered(tmp_path: Path) -> None:
    found = between(VECTOR, VECTOR, block(Bessel))
    with pytest.raises(ExportError, match=r"onnx.*bessel_j0.*safetensors, torch-export"):
        write_format(found, "onnx", tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
    assert write_format(found, "torch-export", tmp_path / "net.pt2").relative == 0


class Branches(LinearBlock):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)
        return out if float(x.sum()) > 0 else -out


def test_a_network_that_branches_on_its_data_is_refused_by_torch_export(tmp_path: Path) -> None:
    found = between(VECTOR, VECTOR, block(Branches))
    with pytest.raises(ExportError, match=r"cannot be written as torch-export.*safetensors, onnx"):
        write_format(found, "torch-export", tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []
    assert write_format(found, "safetensors", tmp_path / "net").relative == 0


def test_unknown_formats_and_missing_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = between(VECTOR, VECTOR, Linear())
    with pytest.raises(ExportError, match="'tflite'; there are safetensors, torch-export, onnx"):
        write_format(found, "tflite", tmp_path / "net")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else real(name)
    )
    with pytest.raises(ExportError, match=r"onnxruntime: pip install 'nas-theseus\[export\]'"):
        write_format(found, "onnx", tmp_path / "net")


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        write_format(between(VECTOR, VECTOR, Linear()), "safetensors", tmp_path / "file" / "net")
