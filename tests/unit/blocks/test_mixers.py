"""Attention with slots against its definition, and token by token against all at once."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.blocks.mixers import SLOT_PIECE, SlotAttention
from nas_theseus.costs import cost_of
from nas_theseus.guide.sublayers import Attention, Reading, Rotary, State
from nas_theseus.values.architecture import Boundary

WIDTH, HEADS, KEYS, HEAD = 10, 6, 2, 4


def mixer(
    window: int,
    tokens: int,
    *,
    gated: bool = False,
    softcap: float | None = None,
    norms: bool = False,
    bias: bool = True,
) -> SlotAttention:
    torch.manual_seed(0)
    attention = Attention(
        nn.Linear(WIDTH, HEADS * HEAD, bias=bias),
        nn.Linear(WIDTH, KEYS * HEAD, bias=bias),
        nn.Linear(WIDTH, KEYS * HEAD, bias=bias),
        nn.Linear(HEADS * HEAD, WIDTH, bias=bias),
        head_width=HEAD,
        rotary=Rotary(torch.tensor([1.0, 0.1])),
        norms=(nn.RMSNorm(HEAD), nn.RMSNorm(HEAD)) if norms else None,
        reading=Reading(softcap=softcap),
    )
    found = SlotAttention(attention, slots=5, window=window, tokens=tokens, gated=gated)
    for each in (found.centres, found.offset, found.join_weight, found.join_bias):
        nn.init.normal_(each)
    return found.double()


def inputs(tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, tokens, WIDTH, generator=generator, dtype=torch.float64)


def by_definition(mixer: SlotAttention, x: Tensor) -> Tensor:
    """Every weight of every pair of tokens, one by one."""
    attention, count = mixer.attention, x.shape[1]
    query, key, value = attention.split(x)
    gates = torch.ones(len(x), KEYS, count, dtype=x.dtype)
    if mixer.forget is not None:
        gates = mixer.forget(x).sigmoid().mT ** (1 / 16)

    def capped(product: Tensor) -> Tensor:
        cap = attention.softcap
        return product if cap is None else cap * (product / cap).tanh()

    out = torch.zeros(len(x), count, HEADS, HEAD, dtype=x.dtype)
    for n in range(len(x)):
        for head in range(HEADS):
            group = head // (HEADS // KEYS)
            for t in range(count):
                weights = []
                for s in range(t + 1):
                    if t - s < mixer.window:
                        product = query[n, head, t] @ key[n, group, s] * attention.scale
                        weights.append(capped(product).exp())
                        continue
                    joins = mixer.join_weight[group] @ key[n, group, s] + mixer.join_bias[group]
                    slots = mixer.centres[group] @ query[n, head, t] * attention.scale
                    reads = capped(slots + mixer.offset[group]).exp()
                    forgot = gates[n, group, s + 1 : t - mixer.window + 1].prod()
                    weights.append(reads @ joins.softmax(-1) * forgot)
                each = torch.stack(weights)
                out[n, t, head] = each / each.sum() @ value[n, group, : t + 1]
    found: Tensor = attention.output(out.flatten(2))
    return found


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("window", [0, 3, 18])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_all_at_once_equals_the_definition(gated: bool, window: int, softcap: float | None) -> None:
    found = mixer(window, 37, gated=gated, softcap=softcap, norms=softcap is None)
    x = inputs(37)[:1]
    torch.testing.assert_close(found(x), by_definition(found, x), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("window", [0, 1, 4, 16, 20, 40])
@pytest.mark.parametrize("tokens", [1, 5, 16, 33, SLOT_PIECE + 7])
def test_token_by_token_and_after_a_prompt_equal_all_at_once(
    gated: bool, window: int, tokens: int
) -> None:
    found, x = mixer(window, 128, gated=gated), inputs(tokens)
    expected = found(x)
    first = min(7, tokens)
    for pieces in ([1] * tokens, [tokens], [first, *[1] * (tokens - first)]):
        state: State = {}
        continued = torch.cat([found(piece, state) for piece in x.split(pieces, 1)], 1)
        torch.testing.assert_close(continued, expected, rtol=1e-9, atol=1e-11)
        kept = sum(tensor[0].numel() for name, tensor in state.items() if name != "seen")
        assert found.state_elements(tokens) == kept


def test_in_the_window_it_is_the_attention_itself_and_the_state_stops_growing() -> None:
    found, x = mixer(12, 12), inputs(12)
    torch.testing.assert_close(found(x), found.attention(x))
    slots = KEYS * 5 * (HEAD + 1)
    assert found.state_elements(8) == slots + 8 * 2 * KEYS * HEAD
    assert found.state_elements(12) == found.state_elements(10_000)
    assert found.attention.state_elements(10_000) > found.state_elements(10_000)


def test_a_slot_for_every_key_is_the_attention_itself() -> None:
    """Keys that are the slots' centres, each joining its own slot, lose nothing."""
    found = mixer(0, 5)
    x = inputs(5)[:1]
    _, key, _ = found.attention.split(x)
    with torch.no_grad():
        found.centres.copy_(key[0])
        found.offset.zero_()
        found.join_weight.copy_(1e4 * key[0])
        found.join_bias.copy_(-5e3 * key[0].square().sum(-1))
    torch.testing.assert_close(found(x), found.attention(x), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("window", [0, 3])
def test_huge_products_stay_finite_and_train(window: int) -> None:
    found = mixer(window, 40, gated=True).float()
    x = (1e3 * inputs(40)).float().requires_grad_()
    out = found(x)
    assert out.isfinite().all()
    out.sum().backward()
    for tensor in (x, *found.parameters()):
        assert tensor.grad is not None and tensor.grad.isfinite().all()


def test_reduced_precision_changes_little() -> None:
    found, x = mixer(3, 40, gated=True).float(), inputs(40).float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = found(x)
    torch.testing.assert_close(low.float(), found(x).detach(), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("window", [0, 4])
def test_it_is_traced_without_warnings_and_shorter_inputs_run(gated: bool, window: int) -> None:
    found, x = mixer(window, 40, gated=gated), inputs(40)
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(found, x)
    torch.testing.assert_close(traced(x + 1), found(x + 1))
    torch.testing.assert_close(found(x[:, :9]), found(x)[:, :9])


def test_multiply_adds_grow_with_the_tokens_not_with_their_square() -> None:
    def macs(tokens: int, **options: bool) -> int:
        return cost_of(
            mixer(4, tokens, bias=False, **options).float(), Boundary((tokens, WIDTH))
        ).macs

    tokens, size, slots = 48, 16, 5
    maps = WIDTH * (2 * HEADS + 2 * KEYS) * HEAD
    reads = HEADS * (slots * HEAD + 2 * size * slots + 2 * size * (HEAD + 1) + slots * (HEAD + 1))
    exact = HEADS * 2 * size * (HEAD + HEAD + 1)
    joins = KEYS * slots * (HEAD + HEAD + 1)
    assert macs(tokens) == tokens * (maps + reads + exact + joins)
    assert macs(tokens, gated=True) == macs(tokens) + tokens * WIDTH * KEYS
    assert macs(10 * tokens) == 10 * macs(tokens)
