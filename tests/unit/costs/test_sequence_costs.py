"""Bytes of weights and of the cache of generated text, in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nas_theseus.blocks.causality import mixes_tokens
from nas_theseus.costs.measures.kv_cache_bytes import KVCacheBytes
from nas_theseus.costs.measures.weight_bytes import WeightBytes
from nas_theseus.errors import CostError
from nas_theseus.guide.sublayers import Attention, Reading, Skip, Sublayer
from nas_theseus.values.architecture import Boundary

INLET = Boundary((10, 8))


def attention(window: int | None = None) -> Sublayer:
    maps = [nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 8)]
    return Sublayer(Attention(*maps, head_width=4, reading=Reading(window=window)))


def test_weights_count_once_in_their_own_type_or_another() -> None:
    tied = nn.Linear(8, 8)
    both = nn.Sequential(tied, tied)
    assert WeightBytes().count(both, INLET) == 4 * 72
    assert WeightBytes("bfloat16").count(both, INLET) == 2 * 72
    assert WeightBytes().shared(nn.Sequential(tied, nn.Linear(8, 1)), [tied]) == 4 * 72
    assert WeightBytes().count(tied.bfloat16(), INLET) == 2 * 72


def test_keys_and_values_of_every_token_in_the_window_are_remembered() -> None:
    assert KVCacheBytes().count(attention(), INLET) == 10 * 2 * 4 * 4
    assert KVCacheBytes(context=1000).count(attention(), INLET) == 1000 * 2 * 4 * 4
    assert KVCacheBytes(context=1000, dtype="bfloat16").count(attention(6), INLET) == 6 * 2 * 4 * 2
    assert KVCacheBytes().count(Skip(), INLET) == 0


def test_the_state_holds_as_many_elements_as_counted() -> None:
    part, state = attention(window=6), {}
    part(torch.randn(1, 10, 8), state)
    held = state["keys"].numel() + state["values"].numel()
    assert held == part.state_elements(10) == 6 * 2 * 4


def test_blocks_that_read_one_token_need_no_cache() -> None:
    assert KVCacheBytes().count(nn.Linear(8, 8), INLET) == 0


class Shift(nn.Module):
    """Adds the token before."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + nn.functional.pad(x[:, :-1], (0, 0, 1, 0))


def test_blocks_that_read_others_have_to_say_what_they_remember() -> None:
    assert mixes_tokens(Shift(), INLET)
    with pytest.raises(CostError, match="remembers of them: give it .* a method state_elements"):
        KVCacheBytes().count(Shift(), INLET)


def test_a_norm_of_each_token_mixes_none() -> None:
    assert not mixes_tokens(nn.LayerNorm(8), INLET)


def test_images_have_no_cache_of_tokens() -> None:
    with pytest.raises(CostError, match="for language models"):
        KVCacheBytes().count(nn.Conv2d(3, 3, 1), Boundary((3, 8, 8)))


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(CostError, match="'float13' is no type of torch"):
        WeightBytes("float13").count(nn.Linear(2, 2), INLET)
