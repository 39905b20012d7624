"""Llama and models of its form: SmolLM2, Mistral, Qwen2."""

from __future__ import annotations

from nas_theseus.guide.model_family import Family, decoder_layers, rms_norm_of
from nas_theseus.guide.sublayers import Embedding, Head

MEMBER = Family(
    model_types=("llama", "mistral", "qwen2"),
    embedding=lambda model: Embedding(model.model.embed_tokens),
    layers=decoder_layers,
    head=lambda model: Head(model.lm_head, rms_norm_of(model.model.norm)),
)
