"""ViT for classes: images in patches, a class token that the head reads.

Source: Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.1.
"""

from __future__ import annotations

from typing import Any

from nas_theseus.guide.model_family import Family, activation_of, attention_of
from nas_theseus.guide.sublayers import MLP, Head, Layer, Patches, Sublayer
from nas_theseus.values.architecture import Boundary


def _embedding(model: Any) -> Patches:
    module = model.vit.embeddings
    return Patches(module.patch_embeddings.projection, module.cls_token, module.position_embeddings)


def _layer(layer: Any) -> Layer:
    mlp = MLP(layer.mlp.fc1, layer.mlp.fc2, activation_of(layer.mlp.activation_fn))
    return Layer(
        Sublayer(attention_of(layer.attention, rotary=None), layer.layernorm_before),
        Sublayer(mlp, layer.layernorm_after),
    )


def _inlet(config: Any) -> Boundary:
    size = config.image_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return Boundary((config.num_channels, height, width))


MEMBER = Family(
    model_types=("vit",),
    embedding=_embedding,
    layers=lambda model: [_layer(layer) for layer in model.vit.layers],
    head=lambda model: Head(model.classifier, model.vit.layernorm, first=True),
    causal=False,
    inlet=_inlet,
)
