"""A found network as what another program needs to run it: one file or folder, and its packages."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Literal

import torch
from packaging.version import Version
from torch import Tensor

from nas_theseus.errors import ExportError
from nas_theseus.export.format import write_format
from nas_theseus.export.member import Member
from nas_theseus.space.imports import imports_of
from nas_theseus.space.sources import Sources, read_sources
from nas_theseus.values.version import VERSION

PROGRAM_FILE = "network.pt2"
# Operators that torch itself brings.
_TORCH_OPERATORS = {"aten", "prim", "prims", "higher_order", "_operator"}


@dataclass(frozen=True, eq=False)
class Package:
    """What another program needs to run a found network.

    Attributes:
        kind: ``program``: a file of ``torch.export``, which needs neither nas-theseus nor the
            space's code; ``network``: the network's folder, whose code makes the blocks.
        path: the file or folder.
        needs: what to install, such as ``torch==2.8.0``, by the module that is imported.
        example: one validation input, shape (1, *inlet).
        outlet: shape of the outputs for one input.
        reason: why it is no program; "" for a program.
    """

    kind: Literal["program", "network"]
    path: Path
    needs: Mapping[str, str]
    example: Tensor
    outlet: tuple[int, ...]
    reason: str = ""


def package(member: Member, folder: Path, aside: Path) -> Package:
    """A found network as a program if it can be traced; otherwise its folder.

    Args:
        member: read from `folder`.
        folder: as `write_member` writes it.
        aside: an existing folder for the program.

    Raises:
        DataError: the task's data are not available.
        StorageError: the file cannot be written.
    """
    example = next(member.space.task.batches("validation", 1, limit=1)).inputs
    outlet = member.space.guide.boundaries[-1].shape
    program = aside / PROGRAM_FILE
    try:
        write_format(member, "torch-export", program)
        reason = _own_operators(program)
    except ExportError as error:
        reason = str(error)
    if not reason:
        return Package("program", program, {"torch": _requirement("torch")}, example, outlet)
    return Package(
        "network", folder, _needed(member, read_sources(folder)), example, outlet, reason
    )


def _own_operators(program: Path) -> str:
    """Why a program cannot be read elsewhere: operators that other packages or the space add."""
    loaded = torch.export.load(program)
    called = {
        str(node.target)
        for module in loaded.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if node.op == "call_function"
        and getattr(node.target, "namespace", "aten") not in _TORCH_OPERATORS
    }
    if not called:
        return ""
    return f"it calls operators that are not torch's own: {', '.join(sorted(called))}"


def _needed(member: Member, sources: Sources) -> dict[str, str]:
    """What the network's code imports, and the packages that its modules' classes are from."""
    own = {Path(name).parts[0].removesuffix(".py") for name, _ in sources.modules}
    classes = [
        type(module)
        for part in (*member.space.guide.parts, *member.network.blocks)
        for module in part.modules()
    ]
    tops = {name.partition(".")[0] for name in _imported(sources)}
    tops |= {found.__module__.partition(".")[0] for found in classes}
    tops -= {*own, *sys.stdlib_module_names, "nas_theseus"}
    known = packages_distributions()
    found = {top: _requirement(known[top][0]) for top in sorted(tops | {"torch"}) if top in known}
    return {"nas_theseus": f"nas-theseus=={VERSION}", **found}


def _imported(sources: Sources) -> Iterator[str]:
    """Dotted names of all modules that the sources import."""
    for path, text in (("", sources.text), *sources.modules):
        inside = ".".join(Path(path).parts[:-1])
        yield from (one.name for one in imports_of(ast.parse(text), inside) if not one.relative)


def _requirement(distribution: str) -> str:
    """The installed version of a distribution, without the build that it has on this machine."""
    return f"{distribution}=={Version(version(distribution)).public}"
