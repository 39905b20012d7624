"""Gemma: Llama's form, with scaled embeddings and norms that multiply by 1 + weight."""

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


def _layers(model: Any) -> list[Layer]:
    return decoder_layers(model, norm=shifted_rms_norm_of)


def _head(model: Any) -> Head:
    return Head(model.lm_head, shifted_rms_norm_of(model.model.norm))


def _write(model: Any, embedding: nn.Module, layers: list[Layer], head: nn.Module) -> None:
    del embedding
    write_shifted_norms(model, layers, head, {})


MEMBER = Family(("gemma",), scaled_embedding_of, _layers, _head, write=_write)
