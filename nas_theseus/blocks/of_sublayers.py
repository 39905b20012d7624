"""Blocks made of a transformer's sublayer: narrower, with fewer heads, of low rank, or a stand-in.

Each begins as near to the guide's part as least squares on the guide's activations brings it, so
that it is useful before any training. They take parts that are sublayers (`guide.sublayers`), as
`huggingface_guide` cuts them; in a part that is a whole layer they change its attention or its MLP.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from nas_theseus.blocks.family import BlockFamily, Choice, block
from nas_theseus.blocks.pruning import gram, inputs_of, low_rank, prune_inputs, refit
from nas_theseus.errors import TransformError
from nas_theseus.guide.sublayers import (
    MLP,
    Attention,
    Layer,
    LowRankLinear,
    Sublayer,
    TokenLinear,
    linear,
)
from nas_theseus.values.architecture import Hyperparameter

_Inner = TypeVar("_Inner", Attention, MLP)
# Examples that run through a part at once.
_CHUNK = 16


def NarrowMLP(keep: Hyperparameter | Choice = 0.5) -> BlockFamily:
    """The guide's MLP with a share of its hidden units: those that its output needs most."""
    return replace(block(narrow_mlp, "narrow_mlp", keep=keep), of_part=True)


def FewerHeads(keep: Hyperparameter | Choice = 0.5) -> BlockFamily:
    """The guide's attention with a share of its key heads, each with the queries it serves."""
    return replace(block(fewer_heads, "fewer_heads", keep=keep), of_part=True)


def FewerKeyValueHeads(heads: Hyperparameter | Choice = 1) -> BlockFamily:
    """The guide's attention with its key and value heads averaged in this many groups."""
    return replace(block(fewer_key_value_heads, "fewer_kv_heads", heads=heads), of_part=True)


def LowRank(rank: Hyperparameter | Choice = 0.25) -> BlockFamily:
    """The guide's part with maps of a lower rank, as a share of each map's smaller width."""
    return replace(block(lower_rank, "low_rank", rank=rank), of_part=True)


def SlidingWindow(window: Hyperparameter | Choice = 64) -> BlockFamily:
    """The guide's attention, in which a token reads this many tokens, itself included."""
    return replace(block(sliding_window, "sliding_window", window=window), of_part=True)


def LinearPart(bias: Hyperparameter | Choice = True) -> BlockFamily:
    """A linear map of each token in place of the guide's sublayer, added to its features."""
    return replace(block(linear_stand_in, "linear_part", bias=bias), of_part=True)


def narrow_mlp(part: nn.Module, features: Tensor, *, keep: float) -> nn.Module:
    """Leave out hidden units of a part's MLP, and refit the map that reads them; changes `part`.

    Args:
        features: inputs of the part, shape (N, T, D).
        keep: share of the hidden units to keep, between 0 and 1.

    Raises:
        TransformError: the part has no MLP, or the share keeps none or all of its units.
    """
    mlp = _inner(part, MLP)
    count = _kept("hidden units", mlp.up.out_features, keep)
    kept, weight = _pruned(mlp.down, part, features, count)
    for each in (mlp.gate, mlp.up):
        if each is not None:
            _keep_outputs(each, kept)
    _replace_weight(mlp.down, weight)
    return part


def fewer_heads(part: nn.Module, features: Tensor, *, keep: float) -> nn.Module:
    """Leave out heads of a part's attention, and refit its output map; changes `part`.

    A key head is left out together with the query heads that read it, so that all maps shrink.

    Args:
        features: inputs of the part, shape (N, T, D).
        keep: share of the key heads to keep, between 0 and 1.

    Raises:
        TransformError: the part has no attention, or the share keeps none or all of its key heads.
    """
    attention = _inner(part, Attention)
    groups = attention.key_heads
    count = _kept("key heads", groups, keep)
    size = attention.output.in_features // groups
    kept, weight = _pruned(attention.output, part, features, count, size)
    width = attention.head_width
    heads = kept.view(count, size)[:, 0] // size
    keys = inputs_of(heads, width)
    _keep_outputs(attention.query, kept)
    _keep_outputs(attention.key, keys)
    _keep_outputs(attention.value, keys)
    _replace_weight(attention.output, weight)
    return part


def fewer_key_value_heads(part: nn.Module, features: Tensor, *, heads: int) -> nn.Module:
    """Average key and value heads in groups, and refit the output map; changes `part`.

    Args:
        features: inputs of the part, shape (N, T, D).
        heads: number of key heads afterwards; divides the number before.

    Raises:
        TransformError: the part has no attention, or its key heads do not form so many groups.

    Source: Ainslie et al. 2023, arXiv:2305.13245, section 2.1; the refit is ours.
    """
    attention = _inner(part, Attention)
    before = attention.key_heads
    if not 0 < heads < before or before % heads:
        raise TransformError(
            f"heads={heads} does not group its {before} key heads; use a smaller divisor of "
            f"{before}"
        )
    goals = _seen_by(attention.output, part, features, outputs=True)
    shape = (heads, before // heads, attention.head_width)
    with torch.no_grad():
        for each in (attention.key, attention.value):
            _replace_weight(each, each.weight.view(*shape, -1).mean(1).flatten(0, 1))
            if each.bias is not None:
                each.bias = nn.Parameter(each.bias.view(shape).mean(1).flatten())
        inputs = _seen_by(attention.output, part, features)
        if _enough(inputs):
            output = attention.output
            fixed = 0.0 if output.bias is None else output.bias
            _replace_weight(output, refit(output.weight, inputs, goals - fixed))
    return part


def lower_rank(part: nn.Module, features: Tensor, *, rank: float) -> nn.Module:
    """Factorise the maps of a part's attention or MLP where that is cheaper; changes `part`.

    Args:
        features: inputs of the part, shape (N, T, D).
        rank: rank of each map as a share of its smaller width, between 0 and 1.

    Raises:
        TransformError: the part is no sublayer, or no map becomes cheaper at this rank.
    """
    if not 0 < rank < 1:
        raise TransformError(f"rank={rank} is not a share between 0 and 1")
    changed = False
    for inner, name, map_ in _maps_of(part):
        wide, narrow = map_.in_features, map_.out_features
        inside = max(1, round(rank * min(wide, narrow)))
        if inside * (wide + narrow) >= wide * narrow:
            continue
        inputs = _seen_by(map_, part, features)
        weight = map_.weight.detach()
        if _enough(inputs):
            out, into = low_rank(weight, gram(inputs), inside)
        else:
            out, into = torch.eye(narrow, inside), weight[:inside].clone()
        setattr(inner, name, LowRankLinear(linear(into), linear(out, map_.bias)))
        changed = True
    if not changed:
        raise TransformError(f"no map of it becomes cheaper at rank={rank}; use a smaller share")
    return part


def sliding_window(part: nn.Module, features: Tensor, *, window: int) -> nn.Module:
    """Limit how far back a part's attention reads; its weights stay; changes `part`.

    Raises:
        TransformError: the part has no attention, or reads no further back already.
    """
    attention = _inner(part, Attention)
    reach = features.shape[1] if attention.window is None else attention.window
    if not 0 < window < reach:
        raise TransformError(
            f"window={window} does not limit it: it reads {reach} tokens; use 1 to {reach - 1}"
        )
    attention.window = window
    return part


def linear_stand_in(part: nn.Module, features: Tensor, *, bias: bool) -> nn.Module:
    """Add W x + b to each token x, fitted to the part's outputs by least squares.

    Args:
        features: inputs of the part, shape (N, T, D).
        bias: whether the map has one.

    Raises:
        TransformError: the part is no residual sublayer or layer.
    """
    refuse_unless_residual(part)
    given, width = features, features.shape[-1]
    added = torch.cat([after - before for before, after in _runs(part, features)])
    if bias:
        given = torch.cat([given, torch.ones_like(given[..., :1])], dim=-1)
    weight = torch.zeros(width, given.shape[-1])
    if _enough(given):
        weight = refit(weight, given, added)
    fixed = weight[:, width].clone() if bias else None
    return TokenLinear(linear(weight[:, :width].contiguous(), fixed))


def sublayers_of(part: nn.Module) -> list[Sublayer]:
    """The sublayers of a part: itself, or those of a layer."""
    parts = [part.attention, part.mlp] if isinstance(part, Layer) else [part]
    return [each for each in parts if isinstance(each, Sublayer)]


def refuse_unless_residual(part: nn.Module) -> None:
    """Refuse parts that are no sublayers, or have a norm behind their sum.

    Raises:
        TransformError: this is one.
    """
    sublayers = sublayers_of(part)
    if not sublayers or any(each.after is not None for each in sublayers):
        raise TransformError(
            f"it is {type(part).__name__}, and the block needs a sublayer that adds to its "
            "features: x + f(norm(x))"
        )


def _pruned(
    reader: nn.Linear, part: nn.Module, features: Tensor, keep: int, size: int = 1
) -> tuple[Tensor, Tensor]:
    """Which groups of a map's inputs to keep, and its refitted weight, as `prune_inputs`.

    Where there are fewer tokens than inputs, as when only shapes are wanted, weights alone decide.
    """
    inputs, weight = _seen_by(reader, part, features), reader.weight.detach()
    if _enough(inputs):
        return prune_inputs(weight, gram(inputs), keep, size)
    norms = weight.norm(dim=0).view(-1, size).norm(dim=1)
    groups = norms.argsort(descending=True)[:keep].sort().values
    kept = inputs_of(groups, size)
    return kept, weight[:, kept]


def _enough(inputs: Tensor) -> bool:
    """Whether there are more examples (…, H) than a map of H inputs has columns to fit."""
    return inputs[..., 0].numel() > inputs.shape[-1]


def _inner(part: nn.Module, kind: type[_Inner]) -> _Inner:
    """The attention or MLP of a part.

    Raises:
        TransformError: it has none.
    """
    for each in sublayers_of(part):
        if isinstance(each.inner, kind):
            return each.inner
    raise TransformError(
        f"it is {type(part).__name__}, and the block needs a sublayer with {kind.__name__}; cut "
        "the guide by huggingface_guide(…), and name the block's parts with .on(…)"
    )


def _maps_of(part: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """The linear maps of a part's attention and MLP, each with its owner and name.

    Raises:
        TransformError: it has neither.
    """
    inners = [each.inner for each in sublayers_of(part) if isinstance(each.inner, Attention | MLP)]
    if not inners:
        raise TransformError(
            f"it is {type(part).__name__}, and the block needs a sublayer with attention or an "
            "MLP; cut the guide by huggingface_guide(…)"
        )
    return [
        (inner, name, map_)
        for inner in inners
        for name, map_ in inner.named_children()
        if isinstance(map_, nn.Linear)
    ]


def _kept(what: str, count: int, share: float) -> int:
    kept = round(share * count)
    if not 0 < kept < count:
        raise TransformError(f"keep={share} keeps {kept} of its {count} {what}; keep some, not all")
    return kept


@torch.no_grad()
def _runs(part: nn.Module, features: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and outputs of a part, some examples at a time."""
    for chunk in torch.split(features, _CHUNK):
        yield chunk, part(chunk)


def _seen_by(module: nn.Module, part: nn.Module, features: Tensor, outputs: bool = False) -> Tensor:
    """Inputs (or outputs) of a module inside a part while the part runs, shape (N, T, H)."""
    caught: list[Tensor] = []
    hook = module.register_forward_hook(
        lambda _module, given, gave: caught.append(gave if outputs else given[0])
    )
    try:
        for _ in _runs(part, features):
            pass
    finally:
        hook.remove()
    return torch.cat(caught)


def _keep_outputs(map_: nn.Linear, kept: Tensor) -> None:
    """Keep these outputs of a linear map, in place."""
    with torch.no_grad():
        _replace_weight(map_, map_.weight[kept])
        if map_.bias is not None:
            map_.bias = nn.Parameter(map_.bias[kept])


def _replace_weight(map_: nn.Linear, weight: Tensor) -> None:
    map_.weight = nn.Parameter(weight.detach().clone())
    map_.out_features, map_.in_features = weight.shape
