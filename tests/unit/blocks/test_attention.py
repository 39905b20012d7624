"""Attention blocks against torch's own module, the recurrence and the quadratic form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.blocks import LinearAttention, SelfAttention
from nas_theseus.blocks.attention import gated_linear_attention
from nas_theseus.costs import cost_of
from nas_theseus.errors import PairingError
from nas_theseus.values.architecture import Boundary

TOKENS = Boundary((11, 12))


def recurrence(query: Tensor, key: Tensor, value: Tensor, log_forget: Tensor) -> Tensor:
    """S_t = α_t S_(t−1) + k_t v_tᵀ and o_t = S_tᵀ q_t, token by token."""
    state = torch.zeros(*query.shape[:2], query.shape[3], value.shape[3], dtype=query.dtype)
    found = []
    for t in range(query.shape[2]):
        forget = log_forget[:, :, t].exp()[..., None, None]
        state = forget * state + key[:, :, t, :, None] * value[:, :, t, None, :]
        found.append((query[:, :, t, None] @ state)[..., 0, :])
    return torch.stack(found, 2)


@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 50])
@pytest.mark.parametrize("strength", [0.1, 30.0])
def test_chunked_attention_equals_the_recurrence(tokens: int, strength: float) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, tokens, 4, dtype=torch.float64)
    value = torch.cat([value, value[..., :1]], -1)  # values may be wider than keys
    log_forget = -strength * torch.rand(2, 3, tokens, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (query, key, value, log_forget)]
    expected = recurrence(*inputs)
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * weights).sum(), inputs)
    found = gated_linear_attention(*inputs, tokens, chunk=8)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad((found * weights).sum(), inputs), gradients, strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


def test_gates_that_forget_all_or_nothing_stay_finite_over_thousands_of_tokens() -> None:
    torch.manual_seed(0)
    query, key, value = torch.rand(3, 1, 2, 2000, 4)
    log_forget = torch.stack([torch.zeros(2000), torch.full((2000,), -1e4)])[None].requires_grad_()
    found = gated_linear_attention(query, key, value, log_forget, 2000)
    found.sum().backward()
    assert log_forget.grad is not None and log_forget.grad.isfinite().all()
    own = (query[:, 1] * key[:, 1]).sum(-1, keepdim=True) * value[:, 1]
    torch.testing.assert_close(found[:, 1], own)
    sums = (key[:, 0, :, :, None] * value[:, 0, :, None, :]).cumsum(1)
    torch.testing.assert_close(
        found[:, 0], (query[:, 0, :, None] @ sums)[:, :, 0], rtol=1e-4, atol=1e-3
    )


def test_linear_attention_without_a_mask_equals_its_quadratic_form() -> None:
    torch.manual_seed(0)
    block = LinearAttention(heads=3, mlp=0).build(TOKENS, TOKENS, {"heads": 3, "mlp": 0}).double()
    x = torch.randn(2, *TOKENS.shape, dtype=torch.float64)
    mixer = block.mixer
    query, key, value = mixer.qkv(x).chunk(3, -1)
    found = []
    for head in range(3):
        q, k, v = (part[..., 4 * head : 4 * head + 4] for part in (query, key, value))
        q, k = (torch.where(part > 0, part + 1, part.exp()) for part in (q, k))
        weights = q @ k.transpose(1, 2)
        found.append(weights / weights.sum(-1, keepdim=True) @ v)
    gate = mixer.output_gate(x)
    expected = torch.cat(found, -1) * gate * gate.sigmoid()
    torch.testing.assert_close(mixer(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_softmax_attention_equals_torch_s_own_module(causal: bool) -> None:
    torch.manual_seed(0)
    hyperparameters = {"heads": 3, "mlp": 0, "causal": causal}
    block = SelfAttention().build(TOKENS, TOKENS, hyperparameters)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    qkv = block.mixer.qkv
    state = {"in_proj_weight": qkv.weight, "in_proj_bias": qkv.bias,
             "out_proj.weight": block.last.weight, "out_proj.bias": block.last.bias}  # fmt: skip
    theirs.load_state_dict(state)
    x = torch.randn(2, *TOKENS.shape)
    mask = torch.ones(11, 11, dtype=torch.bool).triu(1) if causal else None
    normed = block.norm(x)
    expected = x + theirs(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [SelfAttention, LinearAttention])
def test_heads_must_divide_the_width(family) -> None:
    for heads in (5, 0):
        with pytest.raises(PairingError, match=f"got {heads}; possible: 1, 2, 3, 4, 6, 12"):
            family().build(TOKENS, TOKENS, {"heads": heads})


@pytest.mark.parametrize("causal", [False, True])
def test_softmax_attention_s_multiply_adds(causal: bool) -> None:
    tokens, width, out = 11, 12, 20
    with_mlp = SelfAttention().build(
        TOKENS, Boundary((tokens, out)), {"heads": 3, "mlp": 2.0, "causal": causal}
    )
    attention = tokens * 3 * width**2 + 2 * tokens**2 * width
    expected = attention + tokens * (width**2 + width * 2 * width + 2 * width * out)
    assert cost_of(with_mlp, TOKENS).macs == expected
    alone = SelfAttention().build(TOKENS, TOKENS, {"mlp": 0, "causal": causal})
    assert cost_of(alone, TOKENS).macs == attention + tokens * width**2


@pytest.mark.parametrize("tokens", [11, 64, 150])
def test_linear_attention_s_multiply_adds(tokens: int) -> None:
    width, heads, head = 12, 3, 4
    inlet = Boundary((tokens, width))
    maps = tokens * (4 * width**2 + width**2)  # qkv, output gate, last
    full = LinearAttention().build(inlet, inlet, {"heads": heads, "mlp": 0})
    assert cost_of(full, inlet).macs == maps + heads * 2 * tokens * head * (head + 1)
    causal = LinearAttention().build(inlet, inlet, {"heads": heads, "mlp": 0, "causal": True})
    chunk = min(64, tokens)
    filled = -(-tokens // chunk) * chunk
    within = filled * chunk * (head + head + 1)
    between = 2 * filled * head * (head + 1)
    gates = tokens * width * heads
    assert cost_of(causal, inlet).macs == maps + gates + heads * (within + between)
