"""Nothing that is to predict a token may read it: blocks, guides and whole spaces."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas_theseus import Boundary, Guide, SearchSpace, block, choice
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
    TokenMLP,
)
from nas_theseus.blocks.causality import reads_ahead
from nas_theseus.space.mistakes import mistakes_in
from nas_theseus.tasks import digits, text_file

CAUSAL = [
    SelfAttention(causal=True),
    LinearAttention(causal=True),
    GRU(mlp=1),
    MinimalRNN(kernel=4, mlp=1),
    CausalTokenMLP(),
    CausalConv(),
    ChannelMLP(),
]


def identity(family: BlockFamily) -> str:
    return family.name


@pytest.mark.parametrize("family", CAUSAL, ids=identity)
@pytest.mark.parametrize("tokens", [2, 9, 130])
def test_a_later_token_never_changes_an_earlier_output(family: BlockFamily, tokens: int) -> None:
    torch.manual_seed(0)
    inlet = Boundary((tokens, 8))
    module = family.build(inlet, inlet, dict(next(family.variants()))).eval()
    inputs = torch.randn(2, *inlet.shape)
    with torch.no_grad():
        found = module(inputs)
        for place in {1, tokens // 2, tokens - 1}:
            changed = inputs.clone()
            changed[:, place:] += 3 * torch.randn(2, tokens - place, 8)
            again = module(changed)
            assert float((again - found)[:, :place].abs().max()) < 1e-6
            assert float((again - found)[:, place:].abs().max()) > 1e-3
    assert not reads_ahead(module, inlet)


@pytest.mark.parametrize("family", [SelfAttention(), LinearAttention(), TokenMLP()], ids=identity)
@pytest.mark.parametrize("tokens", [2, 9, 130])
def test_blocks_that_read_both_ways_are_caught(family: BlockFamily, tokens: int) -> None:
    torch.manual_seed(0)
    inlet = Boundary((tokens, 8))
    module = family.build(inlet, inlet, dict(next(family.variants())))
    flags = [child.training for child in module.modules()]
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    assert reads_ahead(module, inlet)
    assert [child.training for child in module.modules()] == flags
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())


class Peek(nn.Module):
    """Reads one token ahead at one place only, through a branch that starts at zero."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        out = x.clone()
        out[:, self.place] = x[:, self.place] + self.scale * x[:, self.place + 1]
        return out


class PairMeans(nn.Module):
    """Tokens 0 and 1, 2 and 3, and so on, become their means."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, 2)).mean(2).repeat_interleave(2, 1)


def test_short_looks_ahead_and_zero_branches_are_caught() -> None:
    inlet = Boundary((12, 4))
    assert reads_ahead(Peek(0), inlet) and reads_ahead(Peek(10), inlet)
    assert reads_ahead(PairMeans(), inlet)
    assert not reads_ahead(nn.Identity(), inlet)


class Embed(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, 8)
        self.positions = nn.Parameter(0.02 * torch.randn(6, 8))

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.tokens(ids) + self.positions
        return out


def make(
    folder: Path, blocks: list[BlockFamily], middle: BlockFamily, rows: int = 0
) -> SearchSpace:
    path = folder / "text.txt"
    path.write_text("abcdefgh " * 60, encoding="utf-8")
    task = text_file(path, context=6)
    vocabulary = task.outputs.width
    inlet = Boundary((6, 8))
    torch.manual_seed(0)
    parts = [
        ("embed", Embed(rows or vocabulary)),
        ("first", middle.build(inlet, inlet, dict(next(middle.variants())))),
        ("second", CausalConv().build(inlet, inlet, {})),
        ("head", nn.Linear(8, vocabulary)),
    ]
    return SearchSpace(guide=Guide(parts, task.inlet), task=task, blocks=blocks)


def test_a_text_space_of_causal_blocks_has_no_mistake(tmp_path: Path) -> None:
    assert mistakes_in(make(tmp_path, [Keep(), *CAUSAL], SelfAttention(causal=True))) == []


def test_blocks_that_read_ahead_are_told_with_what_to_do(tmp_path: Path) -> None:
    parts = ("first", "second", "head")
    both_ways = [SelfAttention(causal=choice(True, False)), TokenMLP(), block(PairMean).on(*parts)]
    blocks = [Keep(), *both_ways, block(PairEmbedding).on("embed")]
    said = mistakes_in(make(tmp_path, blocks, CausalConv()))
    for name in ("self_attention(causal=False, heads=4, mlp=4.0)", "token_mlp(hidden=64)",
                 "pairmean"):  # fmt: skip
        assert any(f"block {name} for part first: reads later tokens" in one for one in said), said
    assert all("use causal=True" in one for one in said)
    assert any("block pairembedding for part embed: reads later tokens" in one for one in said)
    # The causal variant is none of the mistakes, and a block is told once.
    assert len(said) == 4
    assert sum("(and 1 more of its choices)" in one for one in said) == 3


class PairMean(nn.Module):
    """A block of one's own that reads ahead."""

    def __init__(self, inlet: Boundary, outlet: Boundary) -> None:
        super().__init__()
        self.means, self.last = PairMeans(), nn.Linear(inlet.width, outlet.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.means(x))
        return out


class PairEmbedding(nn.Module):
    def __init__(self, inlet: Boundary, outlet: Boundary) -> None:
        super().__init__()
        self.tokens, self.means = nn.Embedding(20, 8), PairMeans()
        self.last = nn.Linear(8, outlet.width)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.last(self.means(self.tokens(ids)))
        return out


def test_a_guide_that_reads_ahead_is_told_with_its_part(tmp_path: Path) -> None:
    (said,) = mistakes_in(make(tmp_path, [Keep()], SelfAttention()))
    assert said.startswith("guide: reads later tokens, in 'first': ")
    assert "causal mask" in said


def test_a_guide_with_too_few_embeddings_is_told(tmp_path: Path) -> None:
    (said,) = mistakes_in(make(tmp_path, [Keep()], CausalConv(), rows=2))
    assert said.startswith("guide: cannot be run on token ids 0 to ")
    assert "IndexError" in said


def test_images_may_be_read_in_any_order() -> None:
    """Tokens of an image have no later: the check is for text alone."""

    class Patches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(-1, 8, 8)

    inlet = Boundary((8, 8))
    head = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    parts = [
        ("patches", Patches()),
        ("mix", SelfAttention().build(inlet, inlet, {})),
        ("head", head),
    ]
    guide = Guide(parts, Boundary((1, 8, 8)))
    space = SearchSpace(guide=guide, task=digits(), blocks=[Keep(), SelfAttention(), TokenMLP()])
    assert mistakes_in(space) == []
