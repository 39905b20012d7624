"""Qwen3: Llama's form, with norms over the features of each query and key head."""

from __future__ import annotations

from functools import partial

from nas_theseus.guide.model_family import Family, decoder_layers, rms_norm_of
from nas_theseus.guide.sublayers import Embedding, Head

_NORMS = {
    "self_attn.q_norm": "attention.inner.query_norm",
    "self_attn.k_norm": "attention.inner.key_norm",
}

MEMBER = Family(
    model_types=("qwen3",),
    embedding=lambda model: Embedding(model.model.embed_tokens),
    layers=partial(decoder_layers, norms=_NORMS),
    head=lambda model: Head(model.lm_head, rms_norm_of(model.model.norm)),
)
