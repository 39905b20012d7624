"""Attention heads as channels of a volume: q, k and v write them, the last map reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nas_theseus.errors import TransformError
from nas_theseus.transforms.volume import Layout, Role, Use, Volume


@dataclass(frozen=True)
class _Names:
    """Names of an attention class's tensors that depend on its heads.

    Attributes:
        written: module, weight name, bias name and dimension of the fused q, k, v.
        read: module and dimension of the last map.
        inner: attribute with heads times head size, if the class has one.
    """

    written: tuple[str, str, str, int]
    read: tuple[str, int]
    inner: str | None


_KNOWN = {
    "SelfAttention": _Names(("", "in_proj_weight", "in_proj_bias", 0), ("out_proj", 1), None),
    "GPT2Attention": _Names(("c_attn", "weight", "bias", 1), ("c_proj", 0), "split_size"),
    "Attention": _Names(("qkv", "weight", "bias", 0), ("proj", 1), "attn_dim"),
}


class SelfAttention(nn.Module):
    """``nn.MultiheadAttention`` for self-attention, whose heads need not divide its width.

    Its parameters have the same names; attention weights are not returned.

    Args:
        attention: module whose parameters are taken over; keys and values as wide as queries.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.dropout = attention.num_heads, attention.dropout
        self.batch_first = attention.batch_first
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj
        self.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Self-attention of `query` (N, T, D), or (T, N, D) without `batch_first`.

        Raises:
            TransformError: keys or values are of another sequence, or there is a padding mask.
        """
        if key is not query or value is not query or key_padding_mask is not None:
            raise TransformError(
                "an attention with added heads supports only self-attention without padding mask"
            )
        x = query if self.batch_first else query.transpose(0, 1)
        mixed = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = mixed.view(*mixed.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        if attn_mask is not None and not attn_mask.is_floating_point():
            attn_mask = (
                ~attn_mask
            )  # True masks a position in nn.MultiheadAttention, but keeps it here
        found = F.scaled_dot_product_attention(
            q, k, v, attn_mask, dropout, is_causal=is_causal and attn_mask is None
        )
        out: Tensor = self.out_proj(found.transpose(1, 2).flatten(2))
        return (out if self.batch_first else out.transpose(0, 1)), None


def is_attention(module: nn.Module) -> bool:
    """Whether heads of this module can be added or removed."""
    return isinstance(module, nn.MultiheadAttention) or _names(module) is not None


def _names(module: nn.Module) -> _Names | None:
    names = _KNOWN.get(type(module).__name__)
    if names is None or not hasattr(module, names.written[0] or names.written[1]):
        return None
    return names


def heads_of(module: nn.Module, layer: str) -> Volume:
    """An attention's heads as channels of a volume; softmax works over positions, not heads.

    Raises:
        TransformError: queries, keys and values are not computed by one map, or the heads' outputs
            are normalised or gated before the last map reads them.
    """
    plain = isinstance(module, nn.MultiheadAttention)
    names = _KNOWN["SelfAttention"] if plain else _names(module)
    assert names is not None
    heads: Any = module.num_heads
    refused = {
        "keys or values of other widths": plain and module.in_proj_weight is None,
        "a bias added to the keys": plain and module.bias_k is not None,
        "zeros added to the keys": plain and module.add_zero_attn,
        "cross-attention": getattr(module, "is_cross_attention", False),
        "a gate": getattr(module, "gate", None) is not None,
        "a norm over the heads": isinstance(getattr(module, "norm", None), nn.Module)
        and not isinstance(module.norm, nn.Identity),
    }
    if reasons := [reason for reason, holds in refused.items() if holds]:
        raise TransformError(f"heads of {layer!r} cannot be changed: it has {', '.join(reasons)}")
    inner, weight, bias, dim = names.written
    holder = f"{layer}.{inner}" if inner else layer
    written = module.get_submodule(inner).get_parameter(weight)
    size = written.shape[dim] // (3 * heads)
    once = tuple(head for head in range(heads) for _ in range(size))
    uses = [Use(holder, weight, dim, Role.WRITES, once * 3)]
    if getattr(module.get_submodule(inner), bias, None) is not None:
        uses.append(Use(holder, bias, 0, Role.WRITES, once * 3))
    last, reads = names.read
    uses.append(Use(f"{layer}.{last}", "weight", reads, Role.READS, once))
    reader = (f"{layer}.{last}", Layout(-1, once))
    return Volume(layer, heads, tuple(uses), readers=(reader,))


def set_heads(module: nn.Module, heads: int) -> None:
    """Update an attention's attributes to the number of heads of its weights."""
    names = _names(module)
    assert names is not None
    size: Any = 1
    if names.inner is not None:
        size = getattr(module, names.inner) // module.num_heads
        setattr(module, names.inner, size * heads)
    module.num_heads = heads  # type: ignore[assignment]
