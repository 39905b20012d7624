"""Recurrent blocks against their recurrences, one token at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nas_theseus.blocks import GRU, MinimalRNN
from nas_theseus.blocks.recurrent import minimal_gru
from nas_theseus.costs import cost_of
from nas_theseus.values.architecture import Boundary

TOKENS = Boundary((11, 12))


def recurrence(gate: Tensor, candidate: Tensor) -> Tensor:
    """The paper's recurrence, from h_0 = 0."""
    z = gate.sigmoid()
    added = torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid())
    state, found = torch.zeros_like(gate[:, 0]), []
    for t in range(gate.shape[1]):
        state = (1 - z[:, t]) * state + z[:, t] * added[:, t]
        found.append(state)
    return torch.stack(found, 1)


@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 50])
@pytest.mark.parametrize("strength", [1.0, 40.0])
def test_the_scan_equals_the_recurrence(tokens: int, strength: float) -> None:
    torch.manual_seed(0)
    gate = (strength * torch.randn(2, tokens, 3, dtype=torch.float64)).requires_grad_()
    candidate = torch.randn(2, tokens, 3, dtype=torch.float64, requires_grad=True)
    expected = recurrence(gate, candidate)
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * weights).sum(), (gate, candidate))
    found = minimal_gru(gate, candidate, tokens)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad((found * weights).sum(), (gate, candidate)), gradients, strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


def test_the_scan_keeps_its_digits_over_thousands_of_tokens() -> None:
    """Sums of logs over all tokens would leave three digits here."""
    torch.manual_seed(0)
    gate, candidate = 5 * torch.randn(1, 3000, 4), torch.randn(1, 3000, 4)
    expected = recurrence(gate.double(), candidate.double())
    found = minimal_gru(gate, candidate, 3000).double()
    assert ((found - expected).abs() / expected).max() < 1e-4


def test_the_block_is_norm_convolution_recurrence_and_last() -> None:
    torch.manual_seed(0)
    block = MinimalRNN().build(TOKENS, TOKENS, {"hidden": 0.5, "kernel": 3}).double()
    x = torch.randn(2, *TOKENS.shape, dtype=torch.float64)
    conv, cell = block.mixer[0].conv, block.mixer[1]
    padded = torch.cat([torch.zeros(2, 2, 12, dtype=torch.float64), block.norm(x)], 1)
    seen = sum(padded[:, i : i + 11] * conv.weight[:, 0, i] for i in range(3)) + conv.bias
    gate, candidate = cell.gate_and_candidate(seen).split(6, -1)
    torch.testing.assert_close(block(x), x + block.last(recurrence(gate, candidate)))


def test_a_frozen_gru_still_passes_gradients_on_every_device() -> None:
    """cuDNN refuses gradients through a GRU in evaluation mode."""
    block = GRU().build(TOKENS, TOKENS, {}).eval()
    assert not block.training and block.mixer.gru.training
    x = torch.randn(2, *TOKENS.shape, requires_grad=True)
    block.requires_grad_(False)(x).sum().backward()
    assert x.grad is not None and float(x.grad.abs().sum()) > 0


def test_multiply_adds() -> None:
    tokens, width = TOKENS.shape
    gru = GRU().build(TOKENS, TOKENS, {"hidden": 0.5})
    assert cost_of(gru, TOKENS).macs == tokens * (3 * 6 * (width + 6) + 6 * width)
    minimal = MinimalRNN().build(TOKENS, TOKENS, {"hidden": 2.0})
    assert cost_of(minimal, TOKENS).macs == tokens * (width * 2 * 24 + 24 * width)
    long = Boundary((150, 12))
    full = MinimalRNN().build(long, long, {"hidden": 2.0, "kernel": 4, "mlp": 3.0})
    mlp = 24 * width + width * 36 + 36 * width
    assert cost_of(full, long).macs == 150 * (width * 4 + width * 2 * 24 + mlp)
