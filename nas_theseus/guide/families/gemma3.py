"""Gemma 3 for text: Gemma 2's norms and windows, norms over each head, rotary positions by layer.

Source: Gemma Team 2025, arXiv:2503.19786, section 2.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from nas_theseus.guide.model_family import (
    Family,
    decoder_layers,
    scaled_embedding_of,
    shifted_rms_norm_of,
    write_shifted_norms,
)
from nas_theseus.guide.sublayers import Head, Layer

_NORMS = {
    "post_attention_layernorm": "attention.post",
    "pre_feedforward_layernorm": "mlp.norm",
    "post_feedforward_layernorm": "mlp.post",
    "self_attn.q_norm": "attention.inner.query_norm",
    "self_attn.k_norm": "attention.inner.key_norm",
}


def _layers(model: Any) -> list[Layer]:
    return decoder_layers(model, norm=shifted_rms_norm_of, norms=_NORMS)


def _head(model: Any) -> Head:
    norm = shifted_rms_norm_of(model.model.norm)
    return Head(model.lm_head, norm, model.config.final_logit_softcapping)


def _write(model: Any, embedding: nn.Module, layers: list[Layer], head: nn.Module) -> None:
    del embedding
    write_shifted_norms(model, layers, head, _NORMS)


MEMBER = Family(("gemma3_text",), scaled_embedding_of, _layers, _head, write=_write)
