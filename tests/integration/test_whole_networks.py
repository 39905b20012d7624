"""Networks found with blocks from beside the space file, used where that folder is not.

The searches run in their own process (``--executor inline``).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.commands import SPACE, Desk

pytestmark = pytest.mark.timeout(900)

BLOCKS = """
from torch import nn
from nas_theseus.blocks import downsampling


class Gated(nn.Module):
    def __init__(self, inlet, outlet, hidden: int = 8):
        super().__init__()
        stride = downsampling(inlet, outlet)
        self.value = nn.Conv2d(inlet.width, hidden, 3, stride, 1)
        self.gate = nn.Conv2d(inlet.width, hidden, 1, stride)
        self.last = nn.Conv2d(hidden, outlet.width, 1)

    def forward(self, x):
        from parts.gates import gate
        return self.last(self.value(x) * gate(self.gate(x)))
"""
GATES = "def gate(x):\n    return x.sigmoid()"
OWN = (
    SPACE.replace("blocks=[Keep(), ", "blocks=[Keep(), block(Gated), ")
    .replace("import Recipe, ", "import Recipe, block, ")
    .replace("def conv(", "from own_blocks import Gated\n\n\ndef conv(")
)
# Prints the classes of blocks and the accuracy on validation data.
LOAD = """
import sys
import torch, nas_theseus
from nas_theseus.tasks import digits
network = nas_theseus.load(sys.argv[1], trust_code=True)
right = total = 0
with torch.no_grad():
    for batch in digits().batches("validation", 64):
        right += int((network(batch.inputs).argmax(1) == batch.targets).sum())
        total += len(batch.targets)
print(right / total, *[type(module).__name__ for module in network.modules()])
"""
INLINE = ("--executor", "inline", "--parallel", "1", "--sampler", "random", "--trials", "6")


class OwnDesk(Desk):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "parts").mkdir(exist_ok=True)
        for name, text in (
            ("own.py", OWN), ("own_blocks.py", BLOCKS), ("parts/gates.py", GATES),
        ):  # fmt: skip
            (folder / name).write_text(text)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished search `own`, whose space file imports modules beside it."""
    desk = OwnDesk(tmp_path_factory.mktemp("desk"))
    desk.search_file("own.py", *INLINE)
    return desk.folder


@pytest.fixture
def desk(searched: Path, tmp_path: Path) -> OwnDesk:
    shutil.copytree(searched, tmp_path / "desk")
    return OwnDesk(tmp_path / "desk")


def members(desk: Desk) -> dict[str, float]:
    """Folder and accuracy of each member of the front that has a block from beside the space."""
    rows = json.loads((desk.folder / "theseus/searches/own/front/front.json").read_text())["front"]
    return {r["architecture"]: r["val_accuracy"] for r in rows if "gated" in r["blocks"]}


def load(desk: Desk, folder: Path, network: str) -> tuple[float, list[str]]:
    """Accuracy and classes of a network that is loaded in another process and folder."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, network], cwd=folder, env=desk.environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    accuracy, *classes = done.stdout.split()
    return float(accuracy), classes


def test_front_members_load_and_export_in_an_empty_folder_when_the_space_is_gone(
    desk: OwnDesk, tmp_path: Path
) -> None:
    found = members(desk)
    assert found
    elsewhere = tmp_path / "elsewhere"
    shutil.move(desk.folder / "theseus/searches/own/front", elsewhere / "front")
    shutil.rmtree(desk.folder)
    other = Desk(elsewhere)
    for name, accuracy in found.items():
        measured, classes = load(other, elsewhere, f"front/{name}")
        assert measured == pytest.approx(accuracy, abs=1e-6) and "Gated" in classes
    done = other.run(
        "export", f"front/{name}", "--format", "torch-export", "--trust-code", "--out", "net.pt2"
    )
    assert done.returncode == 0 and "checked on 64" in done.stdout, done.stderr
    refused = other.run("export", f"front/{name}", "--format", "torch-export")
    assert refused.returncode == 2 and "in its sources/" in refused.stderr


def test_an_edited_module_is_refused_when_a_search_continues(desk: OwnDesk) -> None:
    path = desk.folder / "parts/gates.py"
    path.write_text(GATES.replace("sigmoid", "cos"))
    refused = desk.run("search", "own.py", *INLINE[:-1], "7")
    assert refused.returncode == 2 and "parts/gates.py" in refused.stderr
    assert "-    return x.sigmoid()" in refused.stderr and "+    return x.cos()" in refused.stderr
    assert "Traceback" not in refused.stderr
    path.write_text(GATES)
    assert desk.run("search", "own.py", *INLINE[:-1], "7").returncode == 0


@pytest.mark.slow
def test_commands_that_rebuild_the_space_work_in_place_and_without_the_file(desk: OwnDesk) -> None:
    desk.search_file("own.py", *INLINE)  # the user runs the file in this folder
    budget = ("front", "own", "--at", "macs <= 1e7", "--count", "1")
    assert desk.run(*budget).returncode == 0  # the user's own code, as it was
    name = next(iter(members(desk)))
    switched = desk.run("switch", "own", "--set", "epochs=0.1")
    assert switched.returncode == 0, switched.stderr
    converted = desk.run("convert", "own.py", "--architecture", f"own/{name}", "--out", "net")
    assert converted.returncode == 0, converted.stderr
    assert load(desk, desk.folder.parent, str(desk.folder / "net"))[1].count("Gated") >= 1
    for file in ("own.py", "own_blocks.py"):
        (desk.folder / file).unlink()
    refused = desk.run(*budget)
    assert refused.returncode == 2 and "theseus/searches/own/sources," in refused.stderr
    assert desk.run(*budget, "--trust-code").returncode == 0
    refined = desk.run(*budget, "--trust-code", "--refine", "--executor", "inline")
    assert refined.returncode == 0, refined.stderr
