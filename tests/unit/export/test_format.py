"""Every block family in every format, on inputs of its task; what cannot be written is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
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
from nas_theseus.errors import ExportError, StorageError, UnknownNameError
from nas_theseus.export import format as format_module
from nas_theseus.export.format import TOLERANCE, Run, write_format
from nas_theseus.export.member import Member
from nas_theseus.guide.chain import Guide
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.registers import FORMATS
from tests.unit.export.members import (
    HALF,
    IDS,
    MAP,
    NAMES,
    SMALL,
    TOKENS,
    VECTOR,
    between,
    member,
)

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
    assert checked.relative <= TOLERANCE
    # The file holds this network at a batch size that was never tried.
    inputs = torch.randn(4, *inlet.shape)
    with torch.no_grad():
        torch.testing.assert_close(
            FORMATS[name].read(found, path)(inputs), found.network(inputs), rtol=1e-4, atol=1e-4
        )
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert str(Path(format_module.__file__).parents[1]).encode() not in path.read_bytes()


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
    with pytest.raises(ExportError, match=r"network's by up to .*on 9 validation inputs.*onnx"):
        write_format(between(TOKENS, TOKENS, block(Hidden)), "safetensors", path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert write_format(between(TOKENS, TOKENS, block(Hidden)), "torch-export", path).examples == 9


class AnyNumbers:
    """A format whose quality alone is judged, which writes outputs of another shape."""

    suffix, needs, tolerance = ".any", (), float("inf")

    def write(self, member: Member, inputs: Tensor, path: Path) -> None:
        path.write_text("")

    def read(self, member: Member, path: Path) -> Run:
        return lambda inputs: member.network(inputs)[:, :-1]


def test_outputs_of_another_shape_are_refused_by_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(format_module, "with_options", lambda name, options: AnyNumbers())
    monkeypatch.setattr(format_module, "_quality", lambda run, member: {})
    with pytest.raises(ExportError, match="differ from the network's by up to inf"):
        write_format(between(VECTOR, VECTOR, block(LinearBlock)), "onnx", tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


class NotANumber(LinearBlock):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float("nan")


def test_outputs_that_are_not_numbers_are_not_equal(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="network's by up to nan"):
        write_format(between(VECTOR, VECTOR, block(NotANumber)), "safetensors", tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_unknown_formats_and_missing_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = between(VECTOR, VECTOR, Linear())
    with pytest.raises(
        UnknownNameError, match="'tflite'; use huggingface, onnx, safetensors or torch-export"
    ):
        write_format(found, "tflite", tmp_path / "net")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else real(name)
    )
    with pytest.raises(ExportError, match="needs onnxruntime, which .* 'pip install onnxruntime'"):
        write_format(found, "onnx", tmp_path / "net")


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        write_format(between(VECTOR, VECTOR, Linear()), "safetensors", tmp_path / "file" / "net")
