"""BERT for masked words or classes: norms after the sums, positions and segments in the embedding.

All tokens belong to the first segment, as where a model is given ids alone.

Source: Devlin et al. 2019, arXiv:1810.04805, section 3.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from nas_theseus.guide.model_family import Family, activation_of
from nas_theseus.guide.sublayers import MLP, Attention, Embedding, Head, Layer, Reading, Sublayer


def _embedding(model: Any) -> Embedding:
    module = model.bert.embeddings
    return Embedding(
        module.word_embeddings,
        positions=module.position_embeddings,
        types=module.token_type_embeddings,
        norm=module.LayerNorm,
    )


def _layer(layer: Any) -> Layer:
    inner, output = layer.attention.self, layer.attention.output
    attention = Attention(
        inner.query,
        inner.key,
        inner.value,
        output.dense,
        head_width=inner.attention_head_size,
        reading=Reading(causal=inner.is_causal),
    )
    mlp = MLP(
        layer.intermediate.dense,
        layer.output.dense,
        activation_of(layer.intermediate.intermediate_act_fn),
    )
    return Layer(
        Sublayer(attention, after=output.LayerNorm), Sublayer(mlp, after=layer.output.LayerNorm)
    )


def _head(model: Any) -> Head:
    if hasattr(model, "classifier"):
        pooler = model.bert.pooler
        return Head(model.classifier, nn.Sequential(pooler.dense, pooler.activation), first=True)
    words = model.cls.predictions
    change = words.transform
    return Head(
        words.decoder,
        nn.Sequential(change.dense, activation_of(change.transform_act_fn), change.LayerNorm),
    )


MEMBER = Family(
    model_types=("bert",),
    embedding=_embedding,
    layers=lambda model: [_layer(layer) for layer in model.bert.encoder.layer],
    head=_head,
    causal=False,
)
