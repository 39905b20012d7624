"""Blocks that take over attention: how near they begin, that they generate, what they refuse."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.blocks import AttentionToLinear, AttentionToRecurrence
from nas_theseus.blocks.linear_mixers import clusters, to_linear, to_recurrence
from nas_theseus.blocks.mixers import SlotAttention
from nas_theseus.errors import PairingError, TransformError
from nas_theseus.guide.sublayers import MLP, Attention, Layer, Reading, Rotary, State, Sublayer

WIDTH, TOKENS = 16, 24
BOTH = pytest.mark.parametrize("make", [to_linear, to_recurrence])


def attention(
    heads: int = 4, keys: int = 2, bias: bool = False, post: bool = False, **options: Any
) -> Sublayer:
    torch.manual_seed(0)
    inner = Attention(
        nn.Linear(WIDTH, 4 * heads, bias=bias),
        nn.Linear(WIDTH, 4 * keys, bias=bias),
        nn.Linear(WIDTH, 4 * keys, bias=bias),
        nn.Linear(4 * heads, WIDTH, bias=bias),
        head_width=4,
        rotary=Rotary(torch.tensor([1.0, 0.1])),
        reading=Reading(**options),
    )
    return Sublayer(inner, nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH) if post else None).eval()


def layer() -> Layer:
    inner = MLP(nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH), nn.GELU())
    return Layer(attention(), Sublayer(inner, nn.RMSNorm(WIDTH))).eval()


@pytest.fixture
def features() -> Tensor:
    """Sequences of few different tokens, as texts have."""
    generator = torch.Generator().manual_seed(2)
    words = 2 * torch.randn(12, WIDTH, generator=generator)
    ids = torch.randint(12, (60, TOKENS), generator=generator)
    return words[ids] + 0.1 * torch.randn(60, TOKENS, WIDTH, generator=generator)


@torch.no_grad()
def miss(part: nn.Module, block: nn.Module, features: Tensor) -> float:
    """Squared error of a block, relative to what the part adds to its features."""
    wanted = part(features)
    return float((block(features) - wanted).square().sum() / (wanted - features).square().sum())


@BOTH
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("post", [False, True])
def test_it_begins_nearer_than_the_window_alone(
    make: type, features: Tensor, bias: bool, post: bool
) -> None:
    part = attention(bias=bias, post=post)
    with torch.no_grad():  # attention that is not nearly uniform
        part.inner.query.weight.mul_(6)
    found = make(copy.deepcopy(part), features[:40], window=4, slots=16)
    alone = copy.deepcopy(part)
    alone.inner.window = 4
    held_out = features[40:]
    assert miss(part, found, held_out) < 0.35 * miss(part, alone, held_out)
    fewer = make(copy.deepcopy(part), features[:40], window=4, slots=2)
    assert miss(part, found, held_out) < miss(part, fewer, held_out)


@BOTH
def test_the_maps_are_the_guide_s_but_for_the_output(make: type, features: Tensor) -> None:
    part = attention()
    found = make(copy.deepcopy(part), features, window=4, slots=8)
    mixer = found.inner
    assert isinstance(mixer, SlotAttention)
    for name in ("query", "key", "value"):
        mine, theirs = getattr(mixer.attention, name), getattr(part.inner, name)
        assert torch.equal(mine.weight, theirs.weight)
    assert not torch.equal(mixer.attention.output.weight, part.inner.output.weight)
    assert all(p.requires_grad for p in found.parameters())


@BOTH
def test_the_attention_of_a_whole_layer_is_replaced(make: type, features: Tensor) -> None:
    part = layer()
    found = make(copy.deepcopy(part), features, window=4, slots=8)
    assert isinstance(found, Layer) and isinstance(found.attention.inner, SlotAttention)
    assert miss(part, found, features) < 0.5


def test_gates_forget_half_in_five_hundred_tokens_at_first(features: Tensor) -> None:
    found = to_recurrence(attention(), features, window=4, slots=8)
    forget = found.inner.forget
    kept = forget(torch.randn(1, WIDTH)).sigmoid() ** (512 / 16)
    torch.testing.assert_close(kept, torch.full((1, 2), 0.5))
    assert to_linear(attention(), features, window=4, slots=8).inner.forget is None


def test_the_output_map_stays_with_too_few_tokens_to_fit_it(features: Tensor) -> None:
    part = attention()
    found = to_linear(copy.deepcopy(part), features[:1, :12], window=4, slots=32)
    assert torch.equal(found.inner.attention.output.weight, part.inner.output.weight)
    assert found(features[:1, :12]).isfinite().all()


@pytest.mark.parametrize("family", [AttentionToLinear(), AttentionToRecurrence(window=4)])
def test_the_families_are_made_of_parts_and_repeat_with_their_seed(family, features) -> None:
    assert family.of_part and not family.preserves
    values = {**dict(next(family.variants())), "window": 4, "slots": 8}
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(family.transform(attention(), features, values))
    for one, other in zip(found[0].parameters(), found[1].parameters(), strict=True):
        assert torch.equal(one, other)
    state: State = {}
    x = features[:2]
    pieces = [found[0](piece, state) for piece in x.split([10, 1, 1, 12], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), found[0](x), rtol=1e-4, atol=1e-5)
    assert found[0].state_elements(1000) < attention().state_elements(1000)


@BOTH
@pytest.mark.parametrize(
    ("part", "message"),
    [
        (nn.Linear(WIDTH, WIDTH), "it is Linear, and the block needs a sublayer with attention"),
        (layer().mlp, "it is MLP, and the block needs a sublayer with attention"),
        (attention(causal=False), "reads later tokens too"),
        (attention(window=8), "reads 8 tokens only, so it is linear"),
        (attention(heads=5, keys=2), "its 5 heads do not share 2 key heads evenly"),
    ],
)
def test_parts_that_cannot_become_linear_are_refused(
    make: type, part: nn.Module, message: str, features: Tensor
) -> None:
    with pytest.raises(TransformError, match=message):
        make(part, features, window=4, slots=8)


@pytest.mark.parametrize(("window", "slots"), [(-1, 8), (TOKENS, 8), (4, 0)])
def test_impossible_windows_and_slots_are_refused(
    window: int, slots: int, features: Tensor
) -> None:
    family = AttentionToLinear(window=window, slots=slots)
    with pytest.raises(PairingError, match=f"window={window}, slots={slots}: .* 0 to 23 tokens"):
        family.transform(attention(), features, {"window": window, "slots": slots})


def test_a_window_as_long_as_the_attention_s_own_is_no_limit(features: Tensor) -> None:
    part = attention(window=TOKENS)
    found = to_linear(copy.deepcopy(part), features, window=4, slots=16)
    assert miss(part, found, features) < 0.5


def test_clusters_are_found_in_each_set_alone() -> None:
    torch.manual_seed(0)
    centres = 10 * torch.randn(2, 3, 4)
    truth = torch.randint(3, (2, 50))
    rows = centres[torch.arange(2)[:, None], truth] + 0.1 * torch.randn(2, 50, 4)
    found = clusters(rows, 3)
    for mine, theirs in zip(found, truth, strict=True):
        assert len({(int(a), int(b)) for a, b in zip(mine, theirs, strict=True)}) == 3


def test_more_clusters_than_rows_leave_some_empty() -> None:
    torch.manual_seed(0)
    rows = torch.randn(1, 4, 3)
    assert len(set(clusters(rows, 9)[0].tolist())) == 4


@pytest.mark.parametrize("family", [AttentionToLinear(), AttentionToRecurrence()])
def test_shapes_are_the_same_with_few_tokens_as_with_many(family: Any, features: Tensor) -> None:
    values = {**dict(next(family.variants())), "window": 4}
    few, many = (
        family.transform(attention(), given, values).state_dict()
        for given in (features[:1], features)
    )
    assert {k: v.shape for k, v in few.items()} == {k: v.shape for k, v in many.items()}
