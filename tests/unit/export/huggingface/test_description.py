"""Modules as JSON and back."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.blocks import BlockFamily, CausalConv, block
from nas_theseus.blocks.mixers import SlotAttention
from nas_theseus.errors import ExportError
from nas_theseus.export.huggingface.description import Describer, tied
from nas_theseus.guide.sublayers import (
    MLP,
    Attention,
    Embedding,
    Head,
    Layer,
    LowRankLinear,
    Reading,
    Rotary,
    Sublayer,
)
from nas_theseus.values.architecture import Boundary
from tests.unit.export.members import TOKENS

pytest.importorskip("transformers")
from nas_theseus.export.huggingface import modeling_theseus


def attention(window: int | None = None) -> Attention:
    low_rank = LowRankLinear(nn.Linear(8, 2, bias=False), nn.Linear(2, 8))
    return Attention(
        nn.Linear(8, 8),
        nn.Linear(8, 4),
        nn.Linear(8, 4),
        low_rank,  # type: ignore[arg-type]
        head_width=4,
        rotary=Rotary(torch.tensor([1.0, 0.1]), scaling=0.5, interleaved=True),
        norms=(nn.RMSNorm(4, eps=1e-3), nn.LayerNorm(4, bias=False)),
        reading=Reading(window=window),
    )


def layer() -> Layer:
    mlp = MLP(nn.Linear(8, 6), nn.Linear(6, 8), nn.GELU(approximate="tanh"))
    return Layer(
        Sublayer(attention(3), nn.LayerNorm(8)),
        Sublayer(mlp, post=nn.Sequential(nn.Identity(), nn.Linear(8, 8, bias=False))),
        parallel=True,
    )


def again(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The module that a module's description makes, with the module's weights."""
    describer = Describer()
    said = json.loads(json.dumps(describer.module(module)))
    monkeypatch.setattr(modeling_theseus, "KINDS", describer.kinds)
    made = modeling_theseus.build(said, describer.tables)
    assert isinstance(made, nn.Module) and type(made) is type(module)
    made.load_state_dict(module.state_dict())
    assert str(made) == str(module)
    return made


@torch.no_grad()
def test_a_description_makes_the_same_module(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module, x = layer(), torch.randn(2, 7, 8)
    torch.testing.assert_close(again(module, monkeypatch)(x), module(x), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("gated", [False, True])
def test_attention_with_slots(gated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Attention(*(nn.Linear(8, 8) for _ in range(4)), head_width=4)
    module = SlotAttention(full, slots=3, window=2, tokens=7, gated=gated)
    x = torch.randn(2, 7, 8)
    torch.testing.assert_close(again(module, monkeypatch)(x), module(x), rtol=0, atol=0)


@torch.no_grad()
def test_embedding_and_head(monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = Embedding(nn.Embedding(9, 8, padding_idx=2), 2.0, positions=nn.Embedding(5, 8))
    ids = torch.tensor([[1, 2, 8]])
    torch.testing.assert_close(again(embedding, monkeypatch)(ids), embedding(ids))
    head = Head(nn.Linear(8, 9, bias=False), nn.RMSNorm(8), softcap=3.0)
    x = torch.randn(1, 3, 8)
    torch.testing.assert_close(again(head, monkeypatch)(x), head(x))
    assert not tied([embedding, head])
    head.output.weight = embedding.tokens.weight
    assert tied([embedding, head])


def test_descriptions_leave_defaults_out_and_share_tables() -> None:
    describer = Describer()
    said = [describer.module(attention()), describer.module(attention(4))]
    assert said[0]["reading"] == {"kind": "Reading", "scale": 0.5}
    assert said[1] == {**said[0], "reading": {**said[0]["reading"], "window": 4}}
    assert said[0]["query"] == {"kind": "nn.Linear", "in_features": 8, "out_features": 8}
    assert describer.tables == [pytest.approx([1.0, 0.1])]
    assert said[0]["rotary"]["frequencies"] == {"table": 0}
    assert set(describer.kinds) >= {"Attention", "nn.Linear", "LowRankLinear", "Rotary"}


def test_blocks_from_shapes_are_described_by_their_shapes() -> None:
    describer, family = Describer(), CausalConv(kernel=3, expand=1.0)
    arguments = {"inlet": TOKENS, "outlet": TOKENS, "kernel": 3, "expand": 1.0}
    made = family.build(TOKENS, TOKENS, {"kernel": 3, "expand": 1.0})
    said = describer.block(made, family, arguments)
    shape = {"kind": "Boundary", "shape": [5, 6]}
    style = {"kind": "Style"}
    expected = {"inlet": shape, "outlet": shape, "kernel": 3, "expand": 1.0, "style": style}
    assert said == {"kind": "CausalConvBlock", **expected}
    # Without a linear map at its end, a block has one after it.
    family = block(Norm)
    made = family.build(TOKENS, TOKENS, {})
    said = describer.block(made, family, {"inlet": TOKENS, "outlet": TOKENS})
    inner = {"kind": "Norm", "inlet": shape, "outlet": shape}
    assert said == {"kind": "Stitched", "inner": inner, "outlet": shape}


@dataclass(frozen=True)
class Following(BlockFamily):
    """A family whose blocks have something of the guide's."""

    styled: bool = True
    style: object = None


def test_what_blocks_follow_of_the_guide_is_described() -> None:
    family = Following("norm", Norm, style=Numbers(3, (0.5,)))
    said = Describer().block(nn.Identity(), family, {})
    style = {"kind": "Numbers", "first": 3, "others": [0.5]}
    assert said == {"kind": "Norm", "style": style}


class Norm(nn.LayerNorm):
    def __init__(self, inlet: Boundary, outlet: Boundary) -> None:
        super().__init__(inlet.width)


@dataclass(frozen=True)
class Numbers:
    first: int
    others: tuple[float, ...]


class Holds(nn.Module):
    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value


def test_values_of_plain_kinds_can_be_described() -> None:
    said = Describer().module(Holds(Numbers(1, (2.0, 3.5))))
    assert said["value"] == {"kind": "Numbers", "first": 1, "others": [2.0, 3.5]}
    assert Describer().module(Holds([None, "text", True]))["value"] == [None, "text", True]


class Inner:
    class Attention(nn.Module):
        pass


Attention2 = type("Attention", (nn.Module,), {"__module__": "elsewhere"})


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Holds({"a": 1}), "argument 'value' of Holds is a dict, which JSON cannot hold"),
        (Holds(torch.zeros(2, 2)), "argument 'value' of Holds is a Tensor"),
        (Inner.Attention(), r"Inner\.Attention cannot be copied into a modelling file"),
        (nn.Sequential(attention(), Attention2()), "two different classes are called Attention"),
    ],
)
def test_what_cannot_be_described_is_named(module: nn.Module, said: str) -> None:
    with pytest.raises(ExportError, match=said):
        Describer().module(module)


class Renames(nn.Module):
    def __init__(self, width: int, scale: float = 2.0) -> None:
        super().__init__()
        self.size = width

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_an_argument_that_is_kept_nowhere_is_named() -> None:
    with pytest.raises(ExportError, match=r"Renames cannot be described.*'width'.*self\.width"):
        Describer().module(Renames(3))
