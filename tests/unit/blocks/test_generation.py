"""Blocks over tokens continue a text: token by token and after a prompt as all at once."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.blocks import (
    GRU,
    BlockFamily,
    CausalConv,
    CausalTokenMLP,
    ChannelMLP,
    Identity,
    Linear,
    LinearAttention,
    MinimalRNN,
    SelfAttention,
    TokenMLP,
    block,
)
from nas_theseus.blocks.chunks import CHUNK
from nas_theseus.costs import cost_of
from nas_theseus.errors import CostError
from nas_theseus.guide.sublayers import State
from nas_theseus.values.architecture import Boundary, Hyperparameter

INLET, OUTLET = Boundary((CHUNK + 20, 12)), Boundary((CHUNK + 20, 8))


class Cumulative(nn.Module):
    """A custom block without a last map, that says what it remembers."""

    def __init__(self, inlet: Boundary, outlet: Boundary) -> None:
        super().__init__()
        self.up = nn.Linear(inlet.width, outlet.width)

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        sums = self.up(x).cumsum(1)
        if state is not None:
            sums = sums + state.get("sum", torch.zeros_like(sums[:, -1:]))
            state["sum"] = sums[:, -1:]
        return sums.tanh()

    def state_elements(self, tokens: int) -> int:
        return self.up.out_features


def build(family: BlockFamily, **values: Hyperparameter) -> nn.Module:
    torch.manual_seed(0)
    outlet = INLET if family.name == "identity" else OUTLET
    return family.build(INLET, outlet, {**dict(next(family.variants())), **values}).double().eval()


GENERATING = [
    (SelfAttention(), {"causal": True, "heads": 3}, 2 * 12 * 70),
    (LinearAttention(), {"causal": True, "heads": 3}, 12 * 5),
    (LinearAttention(), {"causal": True, "heads": 2, "mlp": 0}, 12 * 7),
    (GRU(), {"hidden": 0.5, "mlp": 2.0}, 6),
    (MinimalRNN(), {"hidden": 2.0, "kernel": 0}, 24),
    (MinimalRNN(), {"hidden": 0.5, "kernel": 3, "mlp": 1.0}, 6 + 2 * 12),
    (CausalConv(), {"kernel": 4}, 3 * 12),
    (CausalConv(), {"kernel": 1}, 0),
    (ChannelMLP(), {}, 0),
    (Linear(), {}, 0),
    (Identity(), {}, 0),
    (block(Cumulative, "cumulative"), {}, 8),
]


@pytest.mark.parametrize(
    ("family", "values", "elements"), GENERATING, ids=[f"{f.name}-{v}" for f, v, _ in GENERATING]
)
def test_token_by_token_and_after_a_prompt_equal_all_at_once(
    family: BlockFamily, values: dict[str, Hyperparameter], elements: int
) -> None:
    module, tokens = build(family, **values), 70
    assert tokens < INLET.shape[0]  # texts shorter than the guide's context
    x = torch.randn(2, tokens, 12, dtype=torch.float64)
    with torch.no_grad():
        expected = module(x)
        for pieces in ([1] * tokens, [tokens], [CHUNK + 1, 1, 4]):
            state: State = {}
            found = torch.cat([module(piece, state) for piece in x.split(pieces, 1)], 1)
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
            kept = sum(tensor[0].numel() for tensor in state.values())
            assert module.state_elements(tokens) == kept == elements  # type: ignore[operator]


# Torch's own GRU compares traced sizes.
TRACED = [each for each in GENERATING if each[0].name != "gru"]


@pytest.mark.parametrize(
    ("family", "values", "_"), TRACED, ids=[f"{f.name}-{v}" for f, v, _ in TRACED]
)
def test_blocks_are_traced_without_warnings(
    family: BlockFamily, values: dict[str, Hyperparameter], _: int
) -> None:
    module, x = build(family, **values), torch.randn(1, *INLET.shape, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(module, x)
    torch.testing.assert_close(traced(x + 1), module(x + 1))


@pytest.mark.parametrize(
    ("family", "values"),
    [
        (SelfAttention(), {"causal": False}),
        (LinearAttention(), {"causal": False}),
        (CausalTokenMLP(), {}),
        (TokenMLP(), {}),
    ],
)
def test_blocks_that_cannot_generate_say_so(
    family: BlockFamily, values: dict[str, Hyperparameter]
) -> None:
    module = build(family, **values)
    message = f"block '{family.name}' cannot generate text token by token.*; use "
    with pytest.raises(CostError, match=message):
        module.state_elements(5)  # type: ignore[operator]
    if family.name != "token_mlp":
        with pytest.raises(CostError, match=message):
            module(torch.randn(1, 1, 12, dtype=torch.float64), {})


def test_a_causal_token_mlp_runs_on_shorter_texts() -> None:
    module, x = build(CausalTokenMLP()), torch.randn(2, *INLET.shape, dtype=torch.float64)
    torch.testing.assert_close(module(x[:, :9]), module(x)[:, :9])


def test_a_stitched_block_says_only_what_its_inner_block_says() -> None:
    inner = block(lambda inlet, outlet: nn.Sequential(nn.Linear(12, 8), nn.Tanh()), "tanh")
    module = build(inner)
    assert not hasattr(module, "state_elements")
    x, state = torch.randn(2, 5, 12, dtype=torch.float64), {}
    torch.testing.assert_close(module(x, state), module(x))
    assert state == {} and cost_of(module.float(), INLET).macs > 0
