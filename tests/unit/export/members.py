"""Found networks of any shapes, for tests of formats."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.blocks import BlockFamily
from nas_theseus.conversion.target import assemble
from nas_theseus.export.format import SPECIAL
from nas_theseus.export.member import Member
from nas_theseus.guide.chain import Guide
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.tasks.task import Device, Digest, Splits, SplitTask
from nas_theseus.values.architecture import Architecture, BlockChoice, Boundary, Span
from nas_theseus.values.outcomes import Cost, Evaluation
from nas_theseus.values.registers import FORMATS

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
NAMES = [
    pytest.param(name, marks=needs_onnx if name == "onnx" else ())
    for name in FORMATS
    if name not in SPECIAL
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
    found = Evaluation(
        architecture, "r", 0, {"val_accuracy": 0.5}, Cost({"macs": 10, "params": 5}), 0, 0.1
    )
    return Member(network.eval(), space, found)


def between(inlet: Boundary, outlet: Boundary, *families: BlockFamily) -> Member:
    return member(Guide([("part", Between(inlet, outlet))], inlet), *families)
