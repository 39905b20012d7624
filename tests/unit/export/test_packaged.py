"""What a found network needs elsewhere: a program alone, or its folder and its packages."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from torch import Tensor

from nas_theseus.blocks import Linear, block
from nas_theseus.blocks.simple import LinearBlock
from nas_theseus.export.packaged import package
from nas_theseus.space.sources import Sources, write_sources
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.version import VERSION
from tests.unit.export.members import TOKENS, VECTOR, between

SPACE = "import numpy\nfrom own.blocks import Mine\n"
BLOCKS = "import json\nfrom scipy import linalg\nfrom . import more\nimport not_installed\n"


@torch.library.custom_op("theseus_tests::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    return x * 2


@doubled.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Doubling(LinearBlock):
    """Calls an operator that another program does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return doubled(super().forward(x))


class Branching(LinearBlock):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)
        return out if float(x.sum()) > 0 else -out


def requirement(name: str) -> str:
    return f"{name}=={Version(version(name)).public}"


@pytest.mark.parametrize("shape", [VECTOR, TOKENS])
def test_a_traced_network_is_a_program_that_needs_torch_alone(
    tmp_path: Path, shape: Boundary
) -> None:
    found = between(shape, shape, Linear())
    packed = package(found, tmp_path / "folder", tmp_path)
    assert (packed.kind, packed.reason) == ("program", "")
    assert packed.needs == {"torch": requirement("torch")}
    assert packed.example.shape == (1, *shape.shape) and packed.outlet == shape.shape
    inputs = packed.example.expand(3, *packed.example.shape[1:])
    program = torch.export.load(packed.path).module()
    with torch.no_grad():
        torch.testing.assert_close(program(inputs), found.network(inputs))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Doubling, "not torch's own: theseus_tests.doubled"), (Branching, "branches on the values")],
)
def test_any_other_is_its_folder_with_what_its_code_imports(
    tmp_path: Path, kind: type[LinearBlock], reason: str
) -> None:
    modules = (("own/blocks.py", BLOCKS), ("own/more.py", "import torchvision"))
    write_sources(tmp_path / "folder", Sources("mine.py", SPACE, modules))
    packed = package(between(VECTOR, VECTOR, block(kind)), tmp_path / "folder", tmp_path)
    assert packed.kind == "network" and packed.path == tmp_path / "folder"
    assert reason in packed.reason
    assert packed.needs == {
        "nas_theseus": f"nas-theseus=={VERSION}",
        **{name: requirement(name) for name in ("numpy", "scipy", "torch", "torchvision")},
    }
