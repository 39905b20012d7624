"""Every block gives its outlet's shape, ends in `last`, and refuses what it cannot stand for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nas_theseus.blocks import (
    GRU,
    MLP,
    Basic,
    BlockFamily,
    Bottleneck,
    CausalConv,
    CausalTokenMLP,
    ChannelMLP,
    Depthwise,
    Identity,
    Keep,
    Linear,
    LinearAttention,
    MinimalRNN,
    Pointwise,
    Pool,
    SelfAttention,
    TokenMLP,
)
from nas_theseus.blocks.family import last_map
from nas_theseus.errors import PairingError
from nas_theseus.values.architecture import Boundary

MAP = Boundary((6, 8, 8))
HALF = Boundary((12, 4, 4))
SMALL = Boundary((6, 4, 4))
GRAY = Boundary((1, 8, 8))
TOKENS = Boundary((10, 6))
WIDER = Boundary((10, 9))
THIN = Boundary((10, 1))
VECTOR = Boundary((7,))

FITS = [
    (family, inlet, outlet)
    for family, pairs in (
        (Basic(width=0.5), [(MAP, MAP), (MAP, HALF), (GRAY, MAP)]),
        (Bottleneck(), [(MAP, MAP), (MAP, HALF)]),
        (Depthwise(expand=2, kernel=5), [(MAP, MAP), (MAP, HALF), (GRAY, MAP)]),
        (Pointwise(expand=0.5), [(MAP, MAP), (MAP, HALF)]),
        (TokenMLP(hidden=5), [(MAP, MAP), (MAP, HALF), (TOKENS, TOKENS), (MAP, TOKENS),
                              (TOKENS, HALF), (GRAY, MAP)]),
        (SelfAttention(heads=2), [(TOKENS, TOKENS), (TOKENS, WIDER)]),
        (SelfAttention(heads=3, mlp=0, causal=True), [(TOKENS, TOKENS), (TOKENS, WIDER)]),
        (LinearAttention(heads=2), [(TOKENS, TOKENS), (TOKENS, WIDER)]),
        (LinearAttention(heads=3, mlp=0, causal=True), [(TOKENS, TOKENS), (TOKENS, WIDER)]),
        (GRU(hidden=0.5), [(TOKENS, TOKENS), (TOKENS, WIDER)]),
        (GRU(mlp=2), [(TOKENS, TOKENS), (TOKENS, WIDER)]),
        (MinimalRNN(hidden=2), [(TOKENS, TOKENS), (TOKENS, WIDER)]),
        (MinimalRNN(kernel=4, mlp=2), [(TOKENS, TOKENS), (THIN, TOKENS)]),
        (CausalTokenMLP(), [(TOKENS, TOKENS), (TOKENS, WIDER), (THIN, THIN)]),
        (CausalConv(kernel=20), [(TOKENS, TOKENS), (TOKENS, WIDER), (THIN, WIDER)]),
        (ChannelMLP(hidden=3), [(TOKENS, TOKENS), (TOKENS, WIDER)]),
        (MLP(hidden=2), [(MAP, VECTOR), (TOKENS, VECTOR), (VECTOR, VECTOR)]),
        (MLP(hidden=0), [(MAP, VECTOR)]),
        (Linear(), [(MAP, HALF), (TOKENS, TOKENS), (VECTOR, VECTOR)]),
        (Identity(), [(MAP, MAP), (TOKENS, TOKENS)]),
        (Pool(), [(MAP, SMALL)]),
    )
    for inlet, outlet in pairs
]  # fmt: skip

REFUSES = [
    (Basic(), MAP, VECTOR, "needs (C,H,W) on both sides"),
    (Depthwise(), MAP, Boundary((6, 3, 3)), "8×8 is not a multiple of 3×3"),
    (TokenMLP(), MAP, VECTOR, "needs (C,H,W) or (T,D)"),
    (MLP(), MAP, HALF, "to a vector"),
    (Identity(), MAP, HALF, "needs equal shapes"),
    (Pool(), MAP, HALF, "same width"),
    (Linear(), MAP, TOKENS, "no linear map per position"),
    (Keep(), MAP, MAP, "keeps the guide's part"),
]


@pytest.mark.parametrize(("family", "inlet", "outlet"), FITS)
def test_shape_gradient_and_last(family: BlockFamily, inlet: Boundary, outlet: Boundary) -> None:
    torch.manual_seed(0)
    hyperparameters = dict(next(family.variants()))
    module = family.build(inlet, outlet, hyperparameters)
    inputs = torch.randn(4, *inlet.shape)
    found = module(inputs)
    assert tuple(found.shape) == (4, *outlet.shape)
    assert family.refusal(inlet, outlet) is None
    # Different examples stay different: nothing in the block makes them alike.
    assert float((found[0] - found[1]).abs().max().detach()) > 1e-4
    parameters = list(module.parameters())
    if not parameters:
        assert last_map(module) is None
        return
    found.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
    last = last_map(module)
    assert isinstance(last, nn.Linear | nn.Conv2d)
    with torch.no_grad():
        module.eval()
        before = module(inputs)
        assert last.bias is not None
        last.bias.add_(1)
        torch.testing.assert_close(module(inputs), before + 1)


@pytest.mark.parametrize(("family", "inlet", "outlet", "reason"), REFUSES)
def test_refusals_name_block_and_shapes(
    family: BlockFamily, inlet: Boundary, outlet: Boundary, reason: str
) -> None:
    with pytest.raises(PairingError) as caught:
        family.build(inlet, outlet, {})
    assert family.name in str(caught.value) and reason in str(caught.value)


def test_a_block_can_be_kept_to_parts() -> None:
    assert Basic().on("a", "b").parts == ("a", "b")
    assert Basic(width=0.5).on("a").choices == Basic(width=0.5).choices
