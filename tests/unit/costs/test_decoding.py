"""Blocks run token by token: outputs, states, and which blocks cannot."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.blocks.family import Stitched
from nas_theseus.costs.decoding import Decoder, median_ms, refuse_undecodable, takes_state
from nas_theseus.costs.measures.decode_latency_ms import DecodeLatencyMs
from nas_theseus.costs.measures.prefill_latency_ms import PrefillLatencyMs
from nas_theseus.errors import CostError
from nas_theseus.guide.sublayers import MLP, Attention, Embedding, Head, Reading, Sublayer
from nas_theseus.values.architecture import Boundary

CPU = torch.device("cpu")
TOKENS = Boundary((12, 8))
IDS = Boundary((12,), integer=True)


def attention(window: int | None = None, causal: bool = True) -> Sublayer:
    maps = [nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 8)]
    reading = Reading(window=window, causal=causal)
    return Sublayer(Attention(*maps, head_width=4, reading=reading), nn.LayerNorm(8))


def gpt() -> list[nn.Module]:
    """Learned positions, two layers and a tied head."""
    torch.manual_seed(0)
    table = nn.Embedding(11, 8)
    head = nn.Linear(8, 11, bias=False)
    head.weight = table.weight
    mlps = [Sublayer(MLP(nn.Linear(8, 16), nn.Linear(16, 8), nn.GELU())) for _ in range(2)]
    embedding = Embedding(table, positions=nn.Embedding(12, 8))
    parts = [embedding, attention(), mlps[0], attention(5), mlps[1], Head(head, nn.LayerNorm(8))]
    return [part.eval() for part in parts]


@torch.no_grad()
def test_the_last_token_of_a_full_cache_is_that_of_the_whole_context() -> None:
    ids = torch.randint(11, (1, 12))
    whole = Decoder(gpt()).read(ids)
    assert torch.equal(whole, nn.Sequential(*gpt())(ids))
    decoder = Decoder(gpt())
    decoder.read(ids[:, :-1])
    states = decoder.remembered()
    for _ in range(3):  # put back before every repeat
        decoder.remember(states)
        assert torch.allclose(decoder.read(ids[:, -1:]), whole[:, -1:], atol=1e-5)
    assert states[1]["keys"].shape == (1, 1, 11, 4)
    assert states[3]["keys"].shape == (1, 1, 5, 4)
    with pytest.raises(IndexError):  # without being put back, it is a token beyond the context
        decoder.read(ids[:, -1:])


@torch.no_grad()
def test_members_of_a_sequence_have_a_state_each() -> None:
    blocks = [nn.Sequential(attention(), nn.Sequential(attention(), nn.LayerNorm(8)))]
    blocks += [Stitched(attention(), TOKENS)]
    text = torch.randn(1, 12, 8)
    decoder = Decoder(blocks)
    tokens = [decoder.read(text[:, at : at + 1]) for at in range(12)]
    assert torch.allclose(torch.cat(tokens, 1), nn.Sequential(*blocks)(text), atol=1e-5)
    assert [bool(state) for state in decoder.remembered()] == [True, True, False, True, False]


def test_another_type_leaves_the_blocks_as_they_are() -> None:
    block = attention()
    decoder = Decoder([block], "bfloat16")
    text = decoder.example(TOKENS, 3)
    assert text.shape == (1, 3, 8)
    assert decoder.read(text).dtype == text.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in block.parameters()} == {torch.float32}
    with pytest.raises(CostError, match="'float13' is no type of torch"):
        Decoder([block], "float13")


class Shift(nn.Module):
    """Adds the token before."""

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.pad(x[:, :-1], (0, 0, 1, 0))


class Forgetful(Shift):
    """Takes a state and does not use it."""

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> Tensor:
        return super().forward(x)


class Broken(Shift):
    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> Tensor:
        if state is not None:
            raise KeyError("memory")
        return super().forward(x)


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (Shift(), r"Shift .* reads other tokens and cannot generate.*state.*state_elements"),
        (Forgetful(), "gives other outputs token by token than for all tokens at once"),
        (Broken(), "cannot generate text token by token: KeyError: 'memory'"),
        (attention(causal=False), "ValueError: attention that reads later tokens cannot go on"),
    ],
    ids=["no state", "forgetful", "broken", "not causal"],
)
def test_blocks_that_cannot_generate_are_refused(block: nn.Module, said: str) -> None:
    with pytest.raises(CostError, match=said):
        DecodeLatencyMs().check_block(block.eval(), TOKENS)


def test_blocks_that_can_are_not() -> None:
    for part in gpt()[1:]:
        refuse_undecodable(part, TOKENS)
    refuse_undecodable(gpt()[0], IDS)
    assert not takes_state(nn.LayerNorm(8))
    DecodeLatencyMs().check_block(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)), TOKENS)


@pytest.mark.parametrize("measure", [DecodeLatencyMs(), PrefillLatencyMs()])
def test_images_have_no_tokens_to_generate(measure: DecodeLatencyMs | PrefillLatencyMs) -> None:
    image = Boundary((3, 8, 8))
    with pytest.raises(CostError, match="is for language models.*use latency_ms"):
        measure.check_block(nn.Conv2d(3, 3, 1), image)
    with pytest.raises(CostError, match="is for language models"):
        measure.measure_blocks([nn.Conv2d(3, 3, 1)], image, CPU, 1)


class Seen(nn.Module):
    """Notes how many tokens come, and how many it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, int]] = []

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> Tensor:
        assert state is not None
        seen = int(state["seen"]) if state else 0
        self.calls.append((seen, x.shape[1]))
        state["seen"] = torch.tensor(seen + x.shape[1])
        return x


@pytest.mark.parametrize(("context", "tokens"), [(None, 12), (40, 40), (1, 1)])
def test_one_token_is_timed_at_a_full_context(context: int | None, tokens: int) -> None:
    seen = Seen()
    assert DecodeLatencyMs(context).measure_blocks([seen], TOKENS, CPU, 1) > 0
    filled, *repeats = seen.calls if tokens > 1 else [(0, 0), *seen.calls]
    assert filled == (0, tokens - 1)
    assert set(repeats) == {(tokens - 1, 1)} and len(repeats) >= 10


def test_the_whole_context_is_timed_with_an_empty_cache() -> None:
    seen = Seen()
    assert PrefillLatencyMs(context=20).measure_blocks([seen], TOKENS, CPU, 1) > 0
    assert set(seen.calls) == {(0, 20)}


def test_whole_networks_begin_with_ids() -> None:
    for measure in (DecodeLatencyMs(dtype="bfloat16"), PrefillLatencyMs()):
        assert measure.measure_blocks(gpt(), IDS, CPU, None) > 0


@pytest.mark.parametrize("measure", [DecodeLatencyMs(context=13), PrefillLatencyMs(context=13)])
def test_a_context_beyond_the_models_is_refused(
    measure: DecodeLatencyMs | PrefillLatencyMs,
) -> None:
    with pytest.raises(CostError, match="context of 13 tokens cannot .*a context within the guide"):
        measure.measure_blocks(gpt(), IDS, CPU, 1)


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    used = []
    median_ms(lambda: used.append(torch.get_num_threads()), CPU, before + 1)
    assert set(used) == {before + 1} and torch.get_num_threads() == before
