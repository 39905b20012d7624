"""GPT-2: learned positions, fused queries, keys and values, weights stored as (inlet, outlet)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nas_theseus.guide.model_family import Family, activation_of
from nas_theseus.guide.sublayers import (
    MLP,
    Attention,
    Embedding,
    Head,
    Layer,
    Reading,
    Sublayer,
    linear,
)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear map that shares the memory of a Conv1D of transformers, or of columns of it."""
    return linear(weight.T, bias)


def _embedding(model: Any) -> Embedding:
    return Embedding(model.transformer.wte, positions=model.transformer.wpe)


def _layer(block: Any) -> Layer:
    fused, mlp = block.attn.c_attn, block.mlp
    query, key, value = (
        _linear(weight, bias)
        for weight, bias in zip(fused.weight.chunk(3, dim=1), fused.bias.chunk(3), strict=True)
    )
    attention = Attention(
        query,
        key,
        value,
        _linear(block.attn.c_proj.weight, block.attn.c_proj.bias),
        head_width=block.attn.head_dim,
        reading=Reading(block.attn.scaling),
    )
    up = _linear(mlp.c_fc.weight, mlp.c_fc.bias)
    down = _linear(mlp.c_proj.weight, mlp.c_proj.bias)
    return Layer(
        Sublayer(attention, block.ln_1), Sublayer(MLP(up, down, activation_of(mlp.act)), block.ln_2)
    )


MEMBER = Family(
    model_types=("gpt2",),
    embedding=_embedding,
    layers=lambda model: [_layer(block) for block in model.transformer.h],
    head=lambda model: Head(model.lm_head, model.transformer.ln_f),
)
