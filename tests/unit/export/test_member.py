"""Folders of found networks: what they hold, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nas_theseus.conversion.target import assemble
from nas_theseus.errors import GuideError, StorageError
from nas_theseus.export.member import (
    load,
    member_files,
    read_architecture,
    read_member,
    write_member,
)
from nas_theseus.guide.weights import plain_state
from nas_theseus.space.load import load_space
from nas_theseus.space.sources import Sources
from nas_theseus.storage.whole_files import write_tensors
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import Cost, Evaluation

SPACE = """
from own_blocks import Doubled
from torch import nn
from nas_theseus import SearchSpace, block, cut
from nas_theseus.blocks import Keep
from nas_theseus.tasks import image_folder

def space():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.Flatten(), nn.Linear(256, 10))
    from pathlib import Path
    task = image_folder(Path(__file__).parent / "data", size=8)
    return SearchSpace(
        guide=cut(net, ["0"], (3, 8, 8), weights="guide.pt"),
        task=task,
        blocks=[Keep(), block(Doubled)],
    )
"""
BLOCKS = """
from torch import nn
class Doubled(nn.Module):
    def __init__(self, inlet, outlet):
        super().__init__()
        self.last = nn.Conv2d(inlet.width, outlet.width, 1)
    def forward(self, x):
        return self.last(2 * x)
"""
SOURCES = Sources("/elsewhere/mine.py", SPACE, (("own_blocks.py", BLOCKS),))
ARCHITECTURE = Architecture((BlockChoice(Span(0, 1), "doubled"), BlockChoice(Span(1, 2), "keep")))
EVALUATION = Evaluation(
    ARCHITECTURE, "r", 0, {"val_accuracy": 0.5}, Cost({"macs": 10, "params": 5}), 0, 0.1
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A found network of a space whose folder, data and guide weights are not on this machine."""
    monkeypatch.chdir(tmp_path)
    space = load_space(
        Sources(SOURCES.path, SPACE.replace(', weights="guide.pt"', ""), SOURCES.modules)
    )
    torch.manual_seed(7)
    network = assemble(space, ARCHITECTURE, 3)
    write_tensors(tmp_path / "weights", plain_state(network))
    write_member(tmp_path / "net", EVALUATION, tmp_path / "weights", SOURCES)
    return tmp_path / "net"


def test_a_network_is_rebuilt_without_the_folder_and_the_data_of_its_space(folder: Path) -> None:
    member = read_member(folder, trust_code=True)
    assert not member.network.training and member.evaluation == EVALUATION
    assert any(type(module).__name__ == "Doubled" for module in member.network.modules())
    weights = load(folder, trust_code=True).state_dict()
    torch.testing.assert_close(weights, member.network.state_dict(), rtol=0, atol=0)
    assert member.network(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


def test_the_files_of_a_network_are_listed_with_its_modules(folder: Path) -> None:
    names = member_files(folder)
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == set(names)
    assert "sources/own_blocks.py" in names


def test_consent_is_asked_for_with_the_files_to_read(folder: Path) -> None:
    with pytest.raises(StorageError, match="net/space.py and in its sources/.*trust_code=True"):
        load(folder)


@pytest.mark.parametrize("name", ["space.py", "architecture.json", "weights.safetensors"])
def test_a_file_that_is_missing_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(StorageError, match=f"holds no found network: {name} missing"):
        load(folder, trust_code=True)


def test_a_module_that_is_missing_is_named(folder: Path) -> None:
    (folder / "sources" / "own_blocks.py").unlink()
    with pytest.raises(StorageError, match="own_blocks.py.*copy the whole folder again"):
        load(folder, trust_code=True)


def test_a_folder_of_an_older_version_loads_with_its_module_put_beside_it(folder: Path) -> None:
    (folder / "sources.json").unlink()
    (folder / "sources" / "own_blocks.py").rename(folder / "own_blocks.py")
    assert load(folder, trust_code=True)(torch.zeros(1, 3, 8, 8)).shape == (1, 10)


def test_damaged_files_are_named(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(GuideError, match="weights.safetensors is damaged"):
        load(folder, trust_code=True)
    (folder / "architecture.json").write_text("{}")
    with pytest.raises(StorageError, match="holds no evaluation"):
        load(folder, trust_code=True)
    with pytest.raises(StorageError, match="holds no architecture"):
        read_architecture(folder / "architecture.json")


def test_weights_that_are_gone_are_reported_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="weights of architecture .* are gone"):
        write_member(tmp_path / "net", EVALUATION, tmp_path / "none", SOURCES)
    assert not (tmp_path / "net").exists()
