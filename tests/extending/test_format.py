"""An export format that is no part of the package: the found network's own space file adds it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from nas_theseus.api.export import export
from nas_theseus.cli.app import make_app
from nas_theseus.conversion.target import assemble
from nas_theseus.errors import ExportError, UnknownNameError
from nas_theseus.export.member import read_member, write_member
from nas_theseus.guide.weights import plain_state
from nas_theseus.space.load import load_space
from nas_theseus.space.sources import gather
from nas_theseus.storage.whole_files import write_tensors
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import Cost, Evaluation

FORMAT = '''
"""NumPy archives: one array for each tensor, and the architecture as text."""

import json

import numpy as np
import torch

from nas_theseus.conversion.target import assemble
from nas_theseus.export.format import metadata
from nas_theseus.guide.weights import plain_state
from nas_theseus.values.architecture import Architecture


class Npz:
    suffix, needs = ".npz", ("numpy",)

    def write(self, member, inputs, path):
        state = {name: tensor.numpy() for name, tensor in plain_state(member.network).items()}
        with path.open("wb") as file:
            np.savez(file, __theseus__=json.dumps(metadata(member)), **state)

    def read(self, member, path):
        with np.load(path) as file:
            said = json.loads(str(file["__theseus__"]))
            state = {n: torch.from_numpy(file[n]) for n in file.files if n != "__theseus__"}
        architecture = Architecture.from_json(json.loads(said["architecture"]))
        network = assemble(member.space, architecture, 1)
        network.load_state_dict(state)
        return network.eval()
'''
SPACE = """
from torch import nn

from nas_theseus import SearchSpace, choice, cut
from nas_theseus.blocks import Depthwise, Keep
from nas_theseus.tasks import digits
from nas_theseus.values.registers import FORMATS
from npz import Npz

FORMATS.add("numpy-archive", Npz())


class Wrong(Npz):
    def read(self, member, path):
        network = super().read(member, path)
        return lambda inputs: network(inputs) + 1


FORMATS.add("wrong-archive", Wrong())


def space():
    convolution = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
    net = nn.Sequential(convolution, nn.Flatten(), nn.Linear(512, 10))
    return SearchSpace(
        guide=cut(net, ["0"], (1, 8, 8)), task=digits(),
        blocks=[Keep(), Depthwise(expand=choice(1, 2))],
    )
"""
ARCHITECTURE = Architecture(
    (
        BlockChoice(Span(0, 1), "depthwise", (("expand", 2), ("kernel", 3))),
        BlockChoice(Span(1, 2), "keep"),
    )
)


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a found network, as a search writes it; the space file is gone."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("mine.py", SPACE), ("npz.py", FORMAT)):
        (tmp_path / name).write_text(text)
    sources, folder = gather("mine.py"), tmp_path / "net"
    network = assemble(load_space(sources), ARCHITECTURE, 0)
    write_tensors(tmp_path / "weights", plain_state(network))
    evaluation = Evaluation(
        ARCHITECTURE, "r", 0, {"val_accuracy": 0.5}, Cost({"macs": 10, "params": 5}), 0, 0.1
    )
    write_member(folder, evaluation, tmp_path / "weights", sources)
    for name in ("mine.py", "npz.py"):
        (tmp_path / name).unlink()
    return folder


def test_a_network_is_written_in_its_own_format_and_checked(found: Path) -> None:
    done = CliRunner().invoke(
        make_app(), ["export", "net", "--format", "numpy-archive", "--trust-code"]
    )
    assert done.exit_code == 0, done.output
    path = Path(f"{ARCHITECTURE.id}.npz")
    assert str(path) in done.output and "validation inputs in batches of 64 and 1" in done.output
    with np.load(io.BytesIO(path.read_bytes())) as file:
        said = json.loads(json.loads(str(file["__theseus__"]))["architecture"])
        weights = {name: torch.from_numpy(file[name]) for name in file.files if name[0] != "_"}
    assert Architecture.from_json(said) == ARCHITECTURE
    network = read_member(found, trust_code=True).network
    torch.testing.assert_close(weights, plain_state(network), rtol=0, atol=0)


def test_a_format_whose_file_gives_other_outputs_saves_nothing(found: Path) -> None:
    with pytest.raises(ExportError, match="outputs of the wrong-archive file differ"):
        export("net", "wrong-archive", trust_code=True)
    assert not list(Path().glob("*.npz"))


def test_a_format_that_nobody_added_is_refused_with_those_that_are(found: Path) -> None:
    with pytest.raises(UnknownNameError, match="'tflite'; use .*numpy-archive"):
        export("net", "tflite", trust_code=True)
