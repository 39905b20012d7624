"""Blocks made of sublayers: what they keep, how near they begin, what they refuse."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.blocks import of_sublayers as blocks
from nas_theseus.errors import PairingError, TransformError
from nas_theseus.guide.sublayers import MLP, Attention, Layer, LowRankLinear, Rotary, Sublayer

WIDTH, TOKENS = 16, 12


def attention(heads: int = 4, keys: int = 2, bias: bool = False) -> Sublayer:
    torch.manual_seed(0)
    inner = Attention(
        nn.Linear(WIDTH, 4 * heads, bias=bias),
        nn.Linear(WIDTH, 4 * keys, bias=bias),
        nn.Linear(WIDTH, 4 * keys, bias=bias),
        nn.Linear(4 * heads, WIDTH, bias=bias),
        head_width=4,
        rotary=Rotary(torch.tensor([1.0, 0.1])),
    )
    return Sublayer(inner, nn.RMSNorm(WIDTH))


def mlp(gated: bool = True, bias: bool = False) -> Sublayer:
    torch.manual_seed(1)
    gate = nn.Linear(WIDTH, 32, bias=bias) if gated else None
    inner = MLP(nn.Linear(WIDTH, 32, bias=bias), nn.Linear(32, WIDTH, bias=bias), nn.SiLU(), gate)
    return Sublayer(inner, nn.RMSNorm(WIDTH))


@pytest.fixture
def features() -> Tensor:
    return torch.randn(40, TOKENS, WIDTH, generator=torch.Generator().manual_seed(2))


def miss(part: nn.Module, block: nn.Module, features: Tensor) -> float:
    """Squared error of a block, relative to what the part adds to its features."""
    with torch.no_grad():
        wanted = part(features)
        off = (block(features) - wanted).square().sum()
        return float(off / (wanted - features).square().sum())


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_narrow_mlp_begins_nearer_than_the_same_units_without_refit(
    features: Tensor, gated: bool, bias: bool
) -> None:
    part = mlp(gated, bias)
    narrow = blocks.narrow_mlp(copy.deepcopy(part), features, keep=0.5)
    assert isinstance(narrow, Sublayer) and isinstance(narrow.inner, MLP)
    assert narrow.inner.up.weight.shape == (16, WIDTH)
    assert narrow.inner.down.weight.shape == (WIDTH, 16)
    rows = {tuple(row.tolist()) for row in part.inner.up.weight}
    assert all(tuple(row.tolist()) in rows for row in narrow.inner.up.weight)
    plain = copy.deepcopy(narrow)
    columns = [
        list(map(tuple, part.inner.up.weight.tolist())).index(tuple(row))
        for row in narrow.inner.up.weight.tolist()
    ]
    plain.inner.down.weight = nn.Parameter(part.inner.down.weight[:, columns])
    assert miss(part, narrow, features) < 0.9 * miss(part, plain, features) < 1.5


def test_units_that_never_fire_are_left_out_for_nothing(features: Tensor) -> None:
    part = mlp()
    with torch.no_grad():
        part.inner.up.weight[::2] = 0
    narrow = blocks.narrow_mlp(copy.deepcopy(part), features, keep=0.5)
    assert miss(part, narrow, features) < 1e-4


@pytest.mark.parametrize("bias", [True, False])
def test_fewer_heads_take_their_keys_and_values_along(features: Tensor, bias: bool) -> None:
    part = attention(heads=6, keys=3, bias=bias)
    fewer = blocks.fewer_heads(copy.deepcopy(part), features, keep=2 / 3)
    inner = fewer.inner
    assert (inner.heads, inner.key_heads) == (4, 2)
    assert inner.output.weight.shape == (WIDTH, 16)
    assert fewer(features).shape == features.shape
    assert miss(part, fewer, features) < 1


def test_a_head_that_says_nothing_is_the_one_left_out(features: Tensor) -> None:
    part = attention(heads=6, keys=3)
    with torch.no_grad():
        part.inner.value.weight[4:8] = 0  # the middle key head
    fewer = blocks.fewer_heads(copy.deepcopy(part), features, keep=2 / 3)
    assert miss(part, fewer, features) < 1e-4
    torch.testing.assert_close(fewer.inner.query.weight[:8], part.inner.query.weight[:8])
    torch.testing.assert_close(fewer.inner.query.weight[8:], part.inner.query.weight[16:])
    torch.testing.assert_close(fewer.inner.key.weight[4:], part.inner.key.weight[8:])


@pytest.mark.parametrize("bias", [True, False])
def test_equal_key_heads_average_to_the_same_attention(features: Tensor, bias: bool) -> None:
    part = attention(heads=4, keys=2, bias=bias)
    with torch.no_grad():
        for each in (part.inner.key, part.inner.value):
            each.weight[4:] = each.weight[:4]
            if bias:
                each.bias[4:] = each.bias[:4]
    fewer = blocks.fewer_key_value_heads(copy.deepcopy(part), features, heads=1)
    assert (fewer.inner.heads, fewer.inner.key_heads) == (4, 1)
    assert miss(part, fewer, features) < 1e-6
    assert fewer.state_elements(10) == part.state_elements(10) / 2


def test_low_rank_factorises_the_maps_where_it_is_cheaper(features: Tensor) -> None:
    part = mlp()
    low = blocks.lower_rank(copy.deepcopy(part), features, rank=0.5)
    maps = [low.inner.gate, low.inner.up, low.inner.down]
    assert all(isinstance(each, LowRankLinear) for each in maps)
    assert sum(p.numel() for p in low.parameters()) < sum(p.numel() for p in part.parameters())
    assert miss(part, low, features) < 0.7


def test_maps_that_have_this_rank_are_kept_exactly(features: Tensor) -> None:
    part = attention()
    with torch.no_grad():
        for each in (part.inner.query, part.inner.key, part.inner.value, part.inner.output):
            u, s, v = torch.linalg.svd(each.weight, full_matrices=False)
            each.weight.copy_(u[:, :2] * s[:2] @ v[:2])
    low = blocks.lower_rank(copy.deepcopy(part), features, rank=0.25)
    assert low.inner.heads == 4
    assert miss(part, low, features) < 1e-4


def test_a_window_changes_only_tokens_that_read_further_back(features: Tensor) -> None:
    part = attention()
    limited = blocks.sliding_window(copy.deepcopy(part), features, window=4)
    whole, windowed = part(features), limited(features)
    torch.testing.assert_close(windowed[:, :4], whole[:, :4])
    assert not torch.allclose(windowed[:, 4:], whole[:, 4:], atol=1e-3)
    other = features.clone()
    other[:, 0] += 1
    changed = (limited(other) - windowed).abs().amax(dim=(0, 2)) > 1e-4
    assert changed.tolist() == [True] * 4 + [False] * (TOKENS - 4)
    assert limited.state_elements(100) == 4 * 2 * 8


def test_a_linear_stand_in_is_least_squares_on_what_the_part_adds(features: Tensor) -> None:
    part = mlp()
    stand_in = blocks.linear_stand_in(part, features, bias=True)
    given = torch.cat([features, torch.ones_like(features[..., :1])], -1).flatten(0, 1)
    added = (part(features) - features).flatten(0, 1).detach()
    best = given @ torch.linalg.lstsq(given, added).solution
    reached = (stand_in(features) - features).flatten(0, 1).detach()
    torch.testing.assert_close(reached, best, atol=5e-3, rtol=5e-2)


@pytest.mark.parametrize("parallel", [True, False])
def test_blocks_change_the_sublayer_inside_a_whole_layer(features: Tensor, parallel: bool) -> None:
    layer = Layer(attention(), mlp(), parallel)
    narrow = blocks.narrow_mlp(copy.deepcopy(layer), features, keep=0.5)
    assert narrow.mlp.inner.up.out_features == 16
    torch.testing.assert_close(narrow.attention(features), layer.attention(features))
    fewer = blocks.fewer_heads(copy.deepcopy(layer), features, keep=0.5)
    assert fewer.attention.inner.key_heads == 1
    assert 0 < miss(layer, narrow, features) < 1 and 0 < miss(layer, fewer, features) < 1


@pytest.mark.parametrize(
    ("make", "part", "options", "said"),
    [
        (blocks.narrow_mlp, attention, {"keep": 0.5}, "needs a sublayer with MLP"),
        (blocks.narrow_mlp, mlp, {"keep": 1.0}, "keeps 32 of its 32 hidden units"),
        (blocks.narrow_mlp, mlp, {"keep": 0.001}, "keeps 0 of its 32 hidden units"),
        (blocks.fewer_heads, mlp, {"keep": 0.5}, "needs a sublayer with Attention"),
        (blocks.fewer_heads, attention, {"keep": 0.9}, "keeps 2 of its 2 key heads"),
        (blocks.fewer_key_value_heads, attention, {"heads": 2}, "does not group its 2 key heads"),
        (blocks.lower_rank, mlp, {"rank": 0.99}, "no map of it becomes cheaper"),
        (blocks.lower_rank, mlp, {"rank": 1.5}, "not a share between 0 and 1"),
        (blocks.sliding_window, attention, {"window": 12}, "use 1 to 11"),
        (blocks.sliding_window, mlp, {"window": 4}, "needs a sublayer with Attention"),
    ],
)
def test_what_cannot_be_made_is_refused(
    features: Tensor, make: Any, part: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(TransformError, match=said):
        make(part(), features, **options)


@pytest.mark.parametrize("make", [blocks.linear_stand_in, blocks.narrow_mlp, blocks.lower_rank])
def test_parts_that_are_no_sublayers_are_refused(features: Tensor, make: Any) -> None:
    options = {
        blocks.narrow_mlp: {"keep": 0.5},
        blocks.lower_rank: {"rank": 0.5},
        blocks.linear_stand_in: {"bias": True},
    }[make]
    with pytest.raises(TransformError, match="it is Linear, and the block needs a sublayer"):
        make(nn.Linear(WIDTH, WIDTH), features, **options)


def test_a_part_with_a_norm_behind_its_sum_has_no_stand_in(features: Tensor) -> None:
    part = mlp()
    part.after = nn.LayerNorm(WIDTH)
    with pytest.raises(TransformError, match="adds to its features"):
        blocks.linear_stand_in(part, features, bias=True)


@pytest.mark.parametrize(
    "family",
    [
        blocks.NarrowMLP(),
        blocks.LowRank(),
        blocks.LinearPart(),
    ],
)
def test_shapes_are_the_same_with_few_tokens_as_with_many(family: Any, features: Tensor) -> None:
    values = dict(next(family.variants()))
    few, many = (
        family.transform(mlp(), given, values).state_dict() for given in (features[:1], features)
    )
    assert {k: v.shape for k, v in few.items()} == {k: v.shape for k, v in many.items()}


def test_a_refusal_names_the_block() -> None:
    with pytest.raises(PairingError, match="block 'narrow_mlp' cannot be made from this part"):
        blocks.NarrowMLP().transform(attention(), torch.zeros(2, TOKENS, WIDTH), {"keep": 0.5})
