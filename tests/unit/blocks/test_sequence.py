"""What all blocks over tokens share, and those without attention or recurrence."""

from __future__ import annotations

import pytest
import torch

from nas_theseus.blocks import (
    GRU,
    BlockFamily,
    CausalConv,
    CausalTokenMLP,
    ChannelMLP,
    LinearAttention,
    MinimalRNN,
    SelfAttention,
)
from nas_theseus.costs import cost_of
from nas_theseus.errors import PairingError
from nas_theseus.values.architecture import Boundary

TOKENS = Boundary((11, 12))
FAMILIES = [
    SelfAttention(),
    SelfAttention(mlp=0, causal=True),
    LinearAttention(),
    LinearAttention(mlp=0, causal=True),
    GRU(),
    MinimalRNN(kernel=4, mlp=2),
    CausalTokenMLP(),
    CausalConv(),
    ChannelMLP(),
]


def identity(family: BlockFamily) -> str:
    return f"{family.name}-{dict(next(family.variants()))}"


@pytest.mark.parametrize("family", FAMILIES, ids=identity)
@pytest.mark.parametrize("tokens", [1, 2, 70])
def test_zero_and_huge_inputs_train_with_finite_gradients(family: BlockFamily, tokens: int) -> None:
    torch.manual_seed(0)
    inlet = Boundary((tokens, 12))
    module = family.build(inlet, inlet, dict(next(family.variants())))
    for inputs in (torch.zeros(3, *inlet.shape), 1e4 * torch.randn(3, *inlet.shape)):
        module.zero_grad()
        inputs.requires_grad_()
        found = module(inputs)
        assert found.isfinite().all()
        found.sum().backward()
        for tensor in (inputs, *module.parameters()):
            assert tensor.grad is not None and tensor.grad.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES, ids=identity)
def test_examples_do_not_mix_and_autocast_changes_little(family: BlockFamily) -> None:
    torch.manual_seed(0)
    module = family.build(TOKENS, TOKENS, dict(next(family.variants()))).eval()
    inputs = torch.randn(3, *TOKENS.shape)
    with torch.no_grad():
        found = module(inputs)
        torch.testing.assert_close(module(inputs[1:2]), found[1:2])
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(module(inputs).float(), found, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("family", FAMILIES, ids=identity)
def test_an_image_or_a_vector_is_refused_by_its_shape(family: BlockFamily) -> None:
    image, vector = Boundary((3, 8, 8)), Boundary((12,))
    for inlet, outlet in ((image, image), (TOKENS, image), (image, TOKENS), (TOKENS, vector)):
        reason = family.refusal(inlet, outlet)
        assert reason is not None
        assert f"needs (T,D) on both sides, got {inlet} and {outlet}" in reason
    ids = Boundary((11,), integer=True)
    assert "(T,D) on both sides" in (family.refusal(ids, TOKENS) or "")
    assert "equal numbers of tokens, got 11 and 5" in (
        family.refusal(TOKENS, Boundary((5, 12))) or ""
    )


def test_a_kernel_must_see_a_token() -> None:
    with pytest.raises(PairingError, match="kernel of at least 1 token, got 0"):
        CausalConv().build(TOKENS, TOKENS, {"kernel": 0})


def test_causal_token_mlp_equals_its_sums() -> None:
    torch.manual_seed(0)
    block = CausalTokenMLP().build(TOKENS, TOKENS, {"hidden": 2.0})
    x = torch.randn(2, *TOKENS.shape)
    normed, weight = block.norm(x), block.mixer.weight
    mixed = torch.stack(
        [sum(weight[t, s] * normed[:, s] for s in range(t + 1)) for t in range(11)], 1
    )
    hidden = x + block.project(mixed + block.mixer.bias)
    torch.testing.assert_close(block(x), hidden + block.last(block.mlp(hidden)))


def test_multiply_adds() -> None:
    tokens, width, out = 11, 12, Boundary((11, 7))
    channel = ChannelMLP().build(TOKENS, out, {"hidden": 3.0})
    assert cost_of(channel, TOKENS).macs == tokens * (width * 36 + 36 * 7)
    conv = CausalConv().build(TOKENS, out, {"kernel": 5, "expand": 2.0})
    assert cost_of(conv, TOKENS).macs == tokens * (width * 5 + width * 24 + 24 * 7)
    token = CausalTokenMLP().build(TOKENS, out, {"hidden": 2.0})
    channels = tokens * (width**2 + width * 24 + 24 * 7)
    assert cost_of(token, TOKENS).macs == tokens**2 * width + channels
