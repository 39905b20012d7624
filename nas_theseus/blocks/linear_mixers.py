"""Blocks that take over a guide's attention with a state of fixed size, linear in the tokens.

They keep the maps for queries, keys, values and output, the positions and the norms. The slots that
stand for tokens beyond the window are fitted to the guide's keys without any training step, and the
output map is refitted to the guide's attention by least squares.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from nas_theseus.blocks.family import BlockFamily, Choice, block
from nas_theseus.blocks.mixers import FORGET_TEMPERATURE, SlotAttention
from nas_theseus.blocks.pruning import refit
from nas_theseus.errors import TransformError
from nas_theseus.guide.sublayers import Attention, Layer, Sublayer
from nas_theseus.values.architecture import Hyperparameter

# Tokens that slots and output maps are fitted to at most, and examples that run at once.
FITTED_TOKENS, EXAMPLES = 8192, 16
# Steps of k-means.
ROUNDS = 12
# How sharply tokens choose their slots: the softmax reads this many times minus half the squared
# distance to the centres.
SHARPNESS = 8.0
# Tokens after which a slot has forgotten half, before training.
HALF_LIFE = 512


def AttentionToLinear(
    window: Hyperparameter | Choice = 16, slots: Hyperparameter | Choice = 32
) -> BlockFamily:
    """The guide's attention, exact over `window` tokens, and linear attention by slots beyond."""
    return replace(
        block(to_linear, "attention_to_linear", window=window, slots=slots), of_part=True
    )


def AttentionToRecurrence(
    window: Hyperparameter | Choice = 4, slots: Hyperparameter | Choice = 32
) -> BlockFamily:
    """The guide's attention as a gated recurrence of slots, behind `window` tokens read exactly."""
    family = block(to_recurrence, "attention_to_recurrence", window=window, slots=slots)
    return replace(family, of_part=True)


def to_linear(part: nn.Module, features: Tensor, *, window: int, slots: int) -> nn.Module:
    """Replace a part's attention by slots behind a window; changes `part`.

    Args:
        features: inputs of the part, shape (N, T, D).
        window: number of tokens that are read one by one, the token itself included; 0 for none.
        slots: number of slots of each key head.

    Raises:
        TransformError: the part has no causal attention over all earlier tokens, its heads do not
            share key heads evenly, or the window or the slots are not possible.
    """
    return _with_slots(part, features, window, slots, gated=False)


def to_recurrence(part: nn.Module, features: Tensor, *, window: int, slots: int) -> nn.Module:
    """As `to_linear`, with gates by which the slots forget, open at first; changes `part`."""
    return _with_slots(part, features, window, slots, gated=True)


@torch.no_grad()
def _with_slots(
    part: nn.Module, features: Tensor, window: int, slots: int, gated: bool
) -> nn.Module:
    sublayer = _attention_sublayer(part)
    attention = sublayer.inner
    assert isinstance(attention, Attention)
    tokens = features.shape[1]
    _refuse(attention, tokens, window, slots)
    given = features[: max(1, FITTED_TOKENS // tokens)]
    given = given if sublayer.norm is None else sublayer.norm(given)
    mixer = SlotAttention(attention, slots=slots, window=window, tokens=tokens, gated=gated)
    _fit_slots(mixer, given)
    if mixer.forget is not None:
        nn.init.zeros_(mixer.forget.weight)
        # The logit of a gate that forgets half in so many tokens.
        rate = math.log(2) / HALF_LIFE * FORGET_TEMPERATURE
        nn.init.constant_(mixer.forget.bias, -math.log(math.expm1(rate)))
    _refit_output(mixer, given)
    sublayer.inner = mixer
    return part


def _attention_sublayer(part: nn.Module) -> Sublayer:
    """The sublayer with attention: the part itself, or that of a layer.

    Raises:
        TransformError: there is none.
    """
    sublayer = part.attention if isinstance(part, Layer) else part
    if isinstance(sublayer, Sublayer) and isinstance(sublayer.inner, Attention):
        return sublayer
    kind = type(sublayer.inner if isinstance(sublayer, Sublayer) else part).__name__
    raise TransformError(
        f"it is {kind}, and the block needs a sublayer with attention; cut the guide by "
        "huggingface_guide(…), and name the block's parts with .on(…)"
    )


def _refuse(attention: Attention, tokens: int, window: int, slots: int) -> None:
    """Refuse attention that cannot become linear, and impossible hyperparameters."""
    if not attention.causal:
        raise TransformError(
            "its attention reads later tokens too, which slots that are filled from left to right "
            "cannot; use it on language models, or LinearAttention(causal=False) here"
        )
    if attention.window is not None and attention.window < tokens:
        raise TransformError(
            f"its attention reads {attention.window} tokens only, so it is linear in the tokens "
            "already; use SlidingWindow for a smaller window"
        )
    heads, keys = attention.heads, attention.key_heads
    if heads % keys:
        raise TransformError(
            f"its {heads} heads do not share {keys} key heads evenly; the number of heads must be "
            "a multiple of the number of key heads"
        )
    if window < 0 or window >= tokens or slots < 1:
        raise TransformError(
            f"window={window}, slots={slots}: a window is 0 to {tokens - 1} tokens here, where the "
            f"attention reads {tokens}, and there is at least one slot"
        )


def _fit_slots(mixer: SlotAttention, given: Tensor) -> None:
    """Centres, and the map by which tokens join, from the guide's keys and queries.

    Two keys are alike if all queries weigh them alike, so the distance of keys is ‖C^½ (k − l)‖
    with C the second moment of the scaled queries of the key head.

    Args:
        given: inputs of the attention, shape (N, T, D).
    """
    attention = mixer.attention
    query, key, _ = attention.split(given)
    groups = attention.heads // attention.key_heads
    # (H, rows, K)
    grouped = torch.unflatten(query, 1, (-1, groups))
    queries = grouped.transpose(0, 1).flatten(1, 3) * attention.scale
    keys = key.transpose(0, 1).flatten(1, 2)
    metric = queries.mT @ queries / queries.shape[1]
    values, vectors = torch.linalg.eigh(metric.double())
    root = (vectors * values.clamp(min=1e-8).sqrt()[:, None]).to(keys)
    chosen = clusters(keys @ root, mixer.slots)
    centres = _means(keys, chosen, mixer.slots)
    reads = centres @ metric
    mixer.centres.copy_(centres)
    mixer.join_weight.copy_(SHARPNESS * reads)
    mixer.join_bias.copy_(-SHARPNESS / 2 * (reads * centres).sum(-1))


def clusters(rows: Tensor, count: int, rounds: int = ROUNDS) -> Tensor:
    """Which cluster each row belongs to, by k-means; random numbers from torch's global generator.

    Args:
        rows: H independent sets of rows, shape (H, M, K).
        count: number of clusters; some stay empty if there are fewer distinct rows.

    Returns:
        Indices below `count`, shape (H, M).

    Source: Lloyd 1982; first centres by Arthur and Vassilvitskii 2007 (k-means++).
    """
    sets = torch.arange(len(rows), device=rows.device)
    centre = rows[sets, torch.randint(rows.shape[1], (len(rows),), device=rows.device)]
    centres = [centre]
    distance = torch.full(rows.shape[:2], torch.inf, device=rows.device)
    for _ in range(count - 1):
        distance = torch.minimum(distance, (rows - centre[:, None]).square().sum(-1))
        picked = torch.multinomial(distance.clamp(min=1e-12), 1)[:, 0]
        centre = rows[sets, picked]
        centres.append(centre)
    found = torch.stack(centres, dim=1)
    for _ in range(rounds):
        chosen = _nearest(rows, found)
        found = _means(rows, chosen, count, found)
    return _nearest(rows, found)


def _nearest(rows: Tensor, centres: Tensor) -> Tensor:
    return (rows @ centres.mT - centres.square().sum(-1)[:, None] / 2).argmax(-1)


def _means(rows: Tensor, chosen: Tensor, count: int, empty: Tensor | None = None) -> Tensor:
    """Means of the rows (H, M, K) of each cluster, (H, count, K).

    Args:
        empty: values for clusters without rows. Default: zero.
    """
    shape = (len(rows), count, rows.shape[2])
    index = chosen[..., None].expand_as(rows)
    sums = rows.new_zeros(shape).scatter_add_(1, index, rows)
    sizes = rows.new_zeros(shape[:2]).scatter_add_(1, chosen, torch.ones_like(rows[..., 0]))
    means = sums / sizes.clamp(min=1)[..., None]
    return means if empty is None else torch.where(sizes[..., None] > 0, means, empty)


def _refit_output(mixer: SlotAttention, given: Tensor) -> None:
    """Refit the output map, so that the mixer's outputs are nearest to the attention's.

    Left as it is where there are fewer tokens than inputs, as when only shapes are wanted.
    """
    output = mixer.attention.output
    if given.shape[0] * given.shape[1] <= output.in_features:
        return
    goals, inputs = [], []
    hook = output.register_forward_hook(lambda _module, read, _gave: inputs.append(read[0]))
    try:
        for chunk in torch.split(given, EXAMPLES):
            goals.append(mixer.attention(chunk))
            inputs.pop()
            mixer(chunk)
    finally:
        hook.remove()
    fixed = 0.0 if output.bias is None else output.bias
    output.weight = nn.Parameter(refit(output.weight, torch.cat(inputs), torch.cat(goals) - fixed))
