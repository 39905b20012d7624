"""Norms and hidden units are recognised in the layers of any library, by what they compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.guide.hidden_units import (
    Call,
    RMSNorm,
    hidden_units,
    norms,
    recorded,
    style_of,
)
from nas_theseus.guide.sublayers import MLP, Skip, Sublayer
from nas_theseus.values.style import PLAIN, Style

WIDTH, HIDDEN = 8, 12


def inputs() -> Tensor:
    return torch.randn(5, 6, WIDTH, generator=torch.Generator().manual_seed(2))


def part(
    norm: nn.Module | None = None,
    activation: nn.Module | None = None,
    gated: bool = True,
    bias: bool = False,
    size: float = 1.0,
) -> Sublayer:
    torch.manual_seed(0)
    up, gate = (nn.Linear(WIDTH, HIDDEN, bias=bias) for _ in range(2))
    down = nn.Linear(HIDDEN, WIDTH, bias=bias)
    inner = MLP(up, down, activation or nn.SiLU(), gate if gated else None)
    found = Sublayer(inner, norm or nn.RMSNorm(WIDTH, eps=1e-3))
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.normal_().mul_(size)
    return found


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [1.0, 0.02])
@pytest.mark.parametrize(
    ("activation", "kind"), [(nn.SiLU(), "silu"), (nn.GELU(), "gelu"), (nn.GELU("tanh"), "gelu")]
)
def test_gated_units_are_told_by_their_products(
    activation: nn.Module, kind: str, bias: bool, size: float
) -> None:
    given = part(activation=activation, bias=bias, size=size)
    x = inputs()
    calls, outputs = recorded(given, x)
    assert torch.equal(outputs, given(x))
    units = hidden_units(calls)
    assert units is not None and units.gate is not None and units.gate.kind == kind
    mlp = given.inner
    assert isinstance(mlp, MLP) and mlp.gate is not None
    assert torch.equal(units.weight, mlp.up.weight)
    assert torch.equal(units.gate.weight, mlp.gate.weight)
    assert torch.equal(units.gate.bias, mlp.gate.bias if bias else torch.zeros(HIDDEN))
    hidden = mlp.hidden(given.norm(x)).flatten(0, 1)  # type: ignore[misc]
    torch.testing.assert_close(
        units.importance, hidden.std(0) * mlp.down.weight.norm(dim=0), rtol=1e-2, atol=1e-8
    )
    assert units.given is x


def test_plain_units_behind_an_rms_norm() -> None:
    given = part(activation=nn.GELU(), gated=False)
    units = hidden_units(recorded(given, inputs())[0])
    assert units is not None and units.gate is None
    assert isinstance(units.norm, RMSNorm) and units.norm.epsilon == 1e-3


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.Sigmoid()])
@pytest.mark.parametrize("gated", [False, True])
def test_other_units_are_not_taken_for_them(activation: nn.Module, gated: bool) -> None:
    assert hidden_units(recorded(part(activation=activation, gated=gated), inputs())[0]) is None


class Shifted(nn.Module):
    """A norm like Gemma's, which multiplies by 1 + weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.randn(WIDTH)), 0.1

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * (1 + self.weight)


class Scale(nn.Module):
    """One weight for each feature, and no norm."""

    def __init__(self, shape: tuple[int, ...] = (WIDTH,)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def test_norms_of_any_library_are_known_by_what_they_compute() -> None:
    torch.manual_seed(1)
    own = [nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH, elementwise_affine=False), Shifted()]
    with torch.no_grad():
        own[0].weight.normal_()  # type: ignore[union-attr, operator]
    others = [Scale(), nn.PReLU(WIDTH), nn.Tanh()]
    x = inputs()
    chain = nn.Sequential(own[0], own[1], own[2], others[0], nn.LayerNorm(WIDTH))
    found = list(norms(recorded(chain, x)[0]))
    assert len(found) == 4 and isinstance(found[3][0], nn.LayerNorm)
    weights = (own[0].weight, torch.ones(WIDTH), 1 + own[2].weight)  # type: ignore[operator]
    for (norm, _), weight in zip(found[:3], weights, strict=True):
        assert isinstance(norm, RMSNorm)
        torch.testing.assert_close(norm.weight, weight)
    assert [norm.epsilon for norm, _ in found[:3]] == [  # type: ignore[union-attr]
        torch.finfo(torch.float32).eps,
        torch.finfo(torch.float32).eps,
        0.1,
    ]
    for other in others:
        gave = torch.ones_like(x)
        assert list(norms([Call(other, x, gave)])) == []


@pytest.mark.parametrize("name", ["Llama", "Gemma", "Qwen2", "GPT2"])
def test_the_layers_of_transformers_are_known(name: str) -> None:
    transformers: Any = pytest.importorskip("transformers")
    sizes: dict[str, Any] = {"vocab_size": 11, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_key_value_heads": 2}
    if name == "GPT2":
        sizes = {"vocab_size": 11, "n_layer": 1, "n_head": 2, "n_embd": WIDTH, "n_positions": 8}
    if name == "Gemma":
        sizes["head_dim"] = 4
    model = getattr(transformers, f"{name}ForCausalLM" if name != "GPT2" else "GPT2LMHeadModel")(
        getattr(transformers, f"{name}Config")(
            **sizes, bos_token_id=None, eos_token_id=None, pad_token_id=None
        )
    )
    layer = model.transformer.h[0] if name == "GPT2" else model.model.layers[0]

    class HalfLayer(nn.Module):
        """The second half of a layer of the library's own modules."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = layer.ln_2 if name == "GPT2" else layer.post_attention_layernorm
            self.mlp = layer.mlp

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + self.mlp(self.norm(x))
            return out

    gate = {"Llama": "silu", "Gemma": "gelu", "Qwen2": "silu", "GPT2": None}[name]
    epsilon = None if name == "GPT2" else 1e-6
    assert style_of([HalfLayer().eval()], inputs()) == Style(epsilon, gate)  # type: ignore[arg-type]


def test_the_style_is_that_of_the_first_mlp_in_the_chain() -> None:
    plain = part(nn.LayerNorm(WIDTH), nn.GELU(), gated=False)
    assert style_of([Skip(), nn.Linear(WIDTH, WIDTH), part()], inputs()) == Style(1e-3, "silu")
    assert style_of([plain, part()], inputs()) == PLAIN
    assert style_of([Skip(), nn.Linear(WIDTH, WIDTH)], inputs()) == PLAIN
    assert style_of([], inputs()) == PLAIN


def test_layers_called_by_keyword_are_passed_over() -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.up(input=x)
            return out

    assert recorded(Keywords(), inputs())[0] == []
