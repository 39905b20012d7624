"""Blocks over tokens in a conversion: the stitch folds into `last`, whatever else feeds the sum."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nas_theseus import Boundary, Guide, Recipe, SearchSpace
from nas_theseus.blocks import (
    GRU,
    BlockFamily,
    CausalConv,
    CausalTokenMLP,
    ChannelMLP,
    Keep,
    LinearAttention,
    MinimalRNN,
    SelfAttention,
)
from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.fitting import stitch
from nas_theseus.conversion.similarity import similarity
from nas_theseus.conversion.stage import Stage
from nas_theseus.conversion.target import assemble
from nas_theseus.tasks import text_file
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from tests.unit.conversion.aligned import align_points

TOKENS = Boundary((16, 8))
FAMILIES = [
    SelfAttention(causal=True),
    SelfAttention(mlp=0, causal=True),
    LinearAttention(causal=True),
    GRU(mlp=1),
    MinimalRNN(kernel=3),
    CausalTokenMLP(),
    CausalConv(),
    ChannelMLP(),
]


class Embed(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, 8)
        self.positions = nn.Parameter(torch.randn(16, 8))

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.tokens(ids) + self.positions
        return out


@pytest.fixture(scope="module")
def guide_and_task(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"{n * n} and {n % 7}; " for n in range(800)), encoding="utf-8")
    task = text_file(path, context=16)
    torch.manual_seed(0)
    layer = SelfAttention().build(TOKENS, TOKENS, {"heads": 2, "causal": True})
    head = nn.Linear(8, task.outputs.width)
    parts = [("embed", Embed(task.outputs.width)), ("layer", layer), ("head", head)]
    return Guide(parts, task.inlet), task


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.name}")
def test_the_stitch_explains_what_it_says(guide_and_task, family: BlockFamily) -> None:
    guide, task = guide_and_task
    space = SearchSpace(guide=guide, task=task, blocks=[Keep(), family])
    new = BlockChoice(Span(1, 2), family.name, next(family.variants()))
    keeps = (BlockChoice(Span(0, 1), "keep"), BlockChoice(Span(2, 3), "keep"))
    target = assemble(space, Architecture((keeps[0], new, keeps[1])), 0)
    cache = GuideActivations(guide, task.sample(128), torch.device("cpu"))
    block, goal = target.blocks[1].eval(), cache.at(2)
    with torch.no_grad():  # speaks in another basis, as a block does after CKA
        block.last.weight.copy_(block.last.weight.flip(0))
        block.last.bias.add_(3)

    def unexplained() -> float:
        with torch.no_grad():
            missed = (block(cache.at(1)) - goal).square().sum()
        return float(missed / (goal - goal.mean((0, 1))).square().sum())

    parameters = sum(p.numel() for p in block.parameters())
    before = unexplained()
    residual = stitch(target, Stage(1, 2, (1,), (1,), 1, (1,)), [cache.at(1)], [goal])
    assert residual is not None and residual < 0.5 * before
    assert unexplained() == pytest.approx(residual, rel=0.01)
    assert sum(p.numel() for p in block.parameters()) == parameters


def test_alignment_of_a_recurrent_block_to_attention_helps(guide_and_task) -> None:
    guide, task = guide_and_task
    family = MinimalRNN(hidden=2.0)
    space = SearchSpace(guide=guide, task=task, blocks=[Keep(), family])
    new = BlockChoice(Span(1, 2), family.name, next(family.variants()))
    keeps = (BlockChoice(Span(0, 1), "keep"), BlockChoice(Span(2, 3), "keep"))
    cache = GuideActivations(guide, task.sample(128), torch.device("cpu"))
    scores = []
    for steps in (0, 30):
        target = assemble(space, Architecture((keeps[0], new, keeps[1])), 0)
        recipe = Recipe(align_steps=steps, align_batch_size=64, similarity="cka")
        points = align_points(
            target, cache, similarity("cka"), recipe, torch.Generator().manual_seed(0)
        )
        scores.append(next(p.value for p in points if p.metric == "similarity/1"))
    assert scores[1] > scores[0]
