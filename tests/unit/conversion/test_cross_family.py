"""A language model whose attention became linear or recurrent: converted, loaded and generating."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_theseus import Recipe, SearchSpace
from nas_theseus.blocks import (
    GRU,
    AttentionToLinear,
    AttentionToRecurrence,
    BlockFamily,
    ChannelMLP,
    Keep,
    MinimalRNN,
)
from nas_theseus.blocks.mixers import SlotAttention
from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.inheritance import inherit
from nas_theseus.conversion.target import Target, assemble
from nas_theseus.costs.measures.kv_cache_bytes import KVCacheBytes
from nas_theseus.guide.huggingface import huggingface_guide
from nas_theseus.library.block_conversion import load_into
from nas_theseus.tasks import digits
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.style import Style

CONTEXT, VOCABULARY = 40, 23
NAMES = ("embed", "attention0", "mlp0", "attention1", "mlp1", "attention2", "mlp2", "head")


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    transformers: Any = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=24, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=CONTEXT,
        bos_token_id=None, eos_token_id=None, initializer_range=0.3,
    )  # fmt: skip
    guide = huggingface_guide(transformers.LlamaForCausalLM(config), CONTEXT)
    assert guide.names == NAMES
    attention = [name for name in NAMES if name.startswith("attention")]
    blocks: list[BlockFamily] = [
        Keep(),
        AttentionToLinear(window=8, slots=6).on(*attention),
        AttentionToRecurrence(window=2, slots=6).on(*attention),
        MinimalRNN(kernel=3, mlp=1.0),
        GRU(),
        ChannelMLP(hidden=1.0),
    ]
    return SearchSpace(guide, digits(), blocks, max_span=2, keep=["embed", "head"], recipe=Recipe())


def network(space: SearchSpace, *chosen: tuple[int, int, str]) -> Target:
    """A target with these blocks on its spans, and the guide's own parts elsewhere."""
    choices, at = [], 0
    for start, stop, name in chosen:
        choices += [BlockChoice(Span(i, i + 1), "keep") for i in range(at, start)]
        values = next(space.families[name].variants())
        choices.append(BlockChoice(Span(start, stop), name, values))
        at = stop
    choices += [BlockChoice(Span(i, i + 1), "keep") for i in range(at, len(space.guide))]
    return assemble(space, Architecture(tuple(choices)), 0, activations=activations(space)).eval()


def activations(space: SearchSpace) -> GuideActivations:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCABULARY, (24, CONTEXT), generator=generator)
    return GuideActivations(space.guide, ids, torch.device("cpu"))


CROSS = [(1, 2, "attention_to_linear"), (3, 4, "attention_to_recurrence"), (4, 5, "channel_mlp")]
RECURRENT = [(1, 3, "minimal_rnn"), (3, 4, "gru"), (5, 6, "attention_to_linear")]


@pytest.mark.parametrize("chosen", [CROSS, RECURRENT])
@torch.no_grad()
def test_a_network_across_families_generates(
    space: SearchSpace, chosen: list[tuple[int, int, str]]
) -> None:
    made = network(space, *chosen)
    ids = torch.randint(VOCABULARY, (2, 33), generator=torch.Generator().manual_seed(3))
    expected = made(ids)
    for pieces in ([1] * 33, [20, 1, 12]):
        states: list[dict[str, Tensor]] = [{} for _ in made.blocks]
        found = []
        for piece in ids.split(pieces, 1):
            features = piece
            for each, state in zip(made.blocks, states, strict=True):
                features = each(features, state)
            found.append(features)
        torch.testing.assert_close(torch.cat(found, 1), expected, rtol=1e-4, atol=1e-4)


def test_its_cache_stops_growing(space: SearchSpace) -> None:
    made = network(space, (1, 2, "attention_to_linear"), (3, 4, "attention_to_recurrence"))
    for position in (1, 3):
        inlet = made.boundaries[position]
        short, long = (
            KVCacheBytes(context).count(made.blocks[position], inlet) for context in (64, 4096)
        )
        assert short == long < KVCacheBytes(4096).count(space.guide.parts[position], inlet)


def test_its_weights_load_into_a_block_made_without_activations(space: SearchSpace) -> None:
    made = network(space, *CROSS)
    for position, (start, stop, name) in zip((1, 3, 4), CROSS, strict=True):
        values = next(space.families[name].variants())
        bare = space.build(BlockChoice(Span(start, stop), name, values))
        load_into(bare, made.blocks[position].state_dict())
        x = torch.randn(2, CONTEXT, 24)
        torch.testing.assert_close(bare(x), made.blocks[position](x))
    assert isinstance(made.blocks[1].inner, SlotAttention)


def test_blocks_over_tokens_start_from_the_model_s_gated_units(space: SearchSpace) -> None:
    assert space.families["channel_mlp"].style == Style(1e-6, "silu")
    features = activations(space).at(2)
    made = network(space, (2, 3, "channel_mlp"))
    part: Any = space.guide.parts[2]
    block: Any = made.blocks[2]
    assert inherit(block, [part], features)
    found = {tuple(row) for row in block.mixer[0].gate.weight.tolist()}
    theirs = {tuple(row) for row in part.inner.gate.weight.tolist()}
    assert len(found) == 24 and found <= theirs
    torch.testing.assert_close(block.norm(features), part.norm(features))
    assert isinstance(block.norm, nn.RMSNorm)
