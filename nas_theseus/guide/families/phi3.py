"""Phi-3: Llama's form, with fused queries, keys and values, and fused gate and up maps."""

from __future__ import annotations

from typing import Any

from nas_theseus.guide.model_family import Family, activation_of, rms_norm_of, rotary_of, window_of
from nas_theseus.guide.sublayers import (
    MLP,
    Attention,
    Embedding,
    Head,
    Layer,
    Reading,
    Rotary,
    Sublayer,
    linear,
)


def _attention(module: Any, rotary: Rotary) -> Attention:
    width = module.head_dim
    read = module.num_key_value_heads * width
    fused = module.qkv_proj.weight
    query, key, value = fused.split((len(fused) - 2 * read, read, read))
    return Attention(
        linear(query),
        linear(key),
        linear(value),
        module.o_proj,
        head_width=width,
        rotary=rotary,
        reading=Reading(module.scaling, window_of(module)),
    )


def _mlp(module: Any) -> MLP:
    gate, up = module.gate_up_proj.weight.chunk(2)
    activation = activation_of(module.activation_fn)
    return MLP(linear(up), module.down_proj, activation, gate=linear(gate))


def _layers(model: Any) -> list[Layer]:
    return [
        Layer(
            Sublayer(
                _attention(layer.self_attn, rotary_of(model.model.rotary_emb)),
                rms_norm_of(layer.input_layernorm),
            ),
            Sublayer(_mlp(layer.mlp), rms_norm_of(layer.post_attention_layernorm)),
        )
        for layer in model.model.layers
    ]


MEMBER = Family(
    model_types=("phi3",),
    embedding=lambda model: Embedding(model.model.embed_tokens),
    layers=_layers,
    head=lambda model: Head(model.lm_head, rms_norm_of(model.model.norm)),
)
