"""The cost table of a space: sums of blocks are the costs of whole networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_theseus import Guide, SearchSpace, maximize, minimize
from nas_theseus.blocks import CausalConv, Keep
from nas_theseus.conversion.target import assemble
from nas_theseus.costs import count_params
from nas_theseus.costs.table import CostTable
from nas_theseus.tasks import from_datasets, text_file
from nas_theseus.transforms import Narrower
from nas_theseus.values.architecture import Architecture, BlockChoice, Boundary, Span


class Head(nn.Module):
    """Logits by the embedding's own weights."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.weight = table.weight

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def make_space(folder: Path, keep: list[str]) -> SearchSpace:
    text = folder / "text.txt"
    text.write_text("abcdefgh" * 200)
    task = text_file(text, context=8)
    torch.manual_seed(0)
    table = nn.Embedding(task.outputs.width, 4)
    parts = [("embed", table), ("middle", nn.Linear(4, 4)), ("head", Head(table))]
    guide = Guide(parts, Boundary((8,), integer=True))
    return SearchSpace(guide=guide, task=task, blocks=[Keep(), CausalConv()], keep=keep)


@pytest.mark.parametrize("middle", ["keep", "causal_conv"])
def test_parameters_tied_between_parts_that_always_stay_count_once(
    tmp_path: Path, middle: str
) -> None:
    space = make_space(tmp_path, ["embed", "head"])
    values = dict(next(iter(space.families[middle].variants())))
    architecture = Architecture(
        (
            BlockChoice(Span(0, 1), "keep"),
            BlockChoice(Span(1, 2), middle, tuple(sorted(values.items()))),
            BlockChoice(Span(2, 3), "keep"),
        )
    )
    found = CostTable(space).of(architecture)
    assert found.params == count_params(assemble(space, architecture, 0))
    low, high = CostTable(space).range("params")
    assert low <= found.params <= high


def test_parameters_of_parts_that_may_go_count_in_each(tmp_path: Path) -> None:
    """Whether the first of them stays is not known where the second is counted."""
    space = make_space(tmp_path, [])
    guide = space.guide_architecture()
    assert guide is not None
    tied = space.guide.parts[0].weight.numel()
    assert CostTable(space).of(guide).params == count_params(space.guide) + tied


class Weights:
    """A cost of a user's own that reads weights: how many are not 0."""

    name = "nonzero"
    unit = "weights"
    direction = "minimize"
    additive = True

    def count(self, module: nn.Module, _inlet: Boundary) -> int:
        return sum(int(p.count_nonzero()) for p in module.parameters())


def layers(**options: Any) -> SearchSpace:
    """Three equal layers, of which the second has no weight."""
    parts = [(f"layer{i}", nn.Linear(4, 4, bias=False)) for i in range(3)]
    parts.append(("head", nn.Linear(4, 2)))
    with torch.no_grad():
        parts[1][1].weight.zero_()
    examples = [(torch.randn(4), i % 2) for i in range(12)]
    task = from_datasets(examples, examples[:4], (4,), 2)
    return SearchSpace(guide=Guide(parts, (4,)), task=task, blocks=[Keep(), Narrower()], **options)


def test_parts_that_differ_in_weights_alone_are_of_one_kind() -> None:
    kinds = [layers().part_kind(i) for i in range(4)]
    assert kinds[0] == kinds[1] == kinds[2] != kinds[3]


def test_each_part_is_counted_where_a_cost_may_read_weights() -> None:
    cost = Weights()
    space = layers(objectives=[maximize("val_accuracy"), minimize(cost)])
    table = CostTable(space)
    kept = [table.of_choice(BlockChoice(Span(i, i + 1), "keep"))["nonzero"] for i in range(3)]
    assert kept == [16, 0, 16]
