"""Phi: parallel layers with one shared norm, partly rotated heads, and biases everywhere."""

from __future__ import annotations

from typing import Any

from nas_theseus.guide.model_family import Family, activation_of, rotary_of
from nas_theseus.guide.sublayers import (
    MLP,
    Attention,
    Embedding,
    Head,
    Layer,
    Reading,
    Rotary,
    Sublayer,
)


def _attention(module: Any, rotary: Rotary) -> Attention:
    return Attention(
        module.q_proj,
        module.k_proj,
        module.v_proj,
        module.dense,
        head_width=module.head_dim,
        rotary=rotary,
        norms=(module.q_layernorm, module.k_layernorm) if module.qk_layernorm else None,
        reading=Reading(module.scaling),
    )


def _layers(model: Any) -> list[Layer]:
    found = []
    for layer in model.model.layers:
        mlp = MLP(layer.mlp.fc1, layer.mlp.fc2, activation_of(layer.mlp.activation_fn))
        found.append(
            Layer(
                Sublayer(
                    _attention(layer.self_attn, rotary_of(model.model.rotary_emb)),
                    layer.input_layernorm,
                ),
                Sublayer(mlp, layer.input_layernorm),
                parallel=True,
            )
        )
    return found


MEMBER = Family(
    model_types=("phi",),
    embedding=lambda model: Embedding(model.model.embed_tokens),
    layers=_layers,
    head=lambda model: Head(model.lm_head, model.model.final_layernorm),
)
