"""GPT-NeoX and Pythia: queries, keys and values fused head by head; often parallel layers.

Source: Black et al. 2022, arXiv:2204.06745, section 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

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
    linear,
)


def _by_head(fused: Tensor, width: int) -> Tensor:
    """A view of a fused weight or bias, (heads, 3, width, …): queries, keys and values."""
    return fused.view(-1, 3, width, *fused.shape[1:])


def _attention(module: Any, rotary: Rotary) -> Attention:
    width, fused = module.head_size, module.query_key_value
    weights = _by_head(fused.weight.detach(), width)
    biases = None if fused.bias is None else _by_head(fused.bias.detach(), width)
    query, key, value = (
        linear(
            weights[:, index].flatten(0, 1).clone(),
            None if biases is None else biases[:, index].flatten().clone(),
        )
        for index in range(3)
    )
    return Attention(
        query,
        key,
        value,
        module.dense,
        head_width=width,
        rotary=rotary,
        reading=Reading(module.scaling),
    )


def _layers(model: Any) -> list[Layer]:
    found = []
    for layer in model.gpt_neox.layers:
        attention = _attention(layer.attention, rotary_of(model.gpt_neox.rotary_emb))
        up, down = layer.mlp.dense_h_to_4h, layer.mlp.dense_4h_to_h
        mlp = MLP(up, down, activation_of(layer.mlp.act))
        found.append(
            Layer(
                Sublayer(attention, layer.input_layernorm),
                Sublayer(mlp, layer.post_attention_layernorm),
                parallel=layer.use_parallel_residual,
            )
        )
    return found


def _write(model: Any, embedding: nn.Module, layers: list[Layer], head: nn.Module) -> None:
    del embedding, head
    with torch.no_grad():
        for theirs, ours in zip(model.gpt_neox.layers, layers, strict=True):
            width, fused = theirs.attention.head_size, theirs.attention.query_key_value
            for index, name in enumerate(("query", "key", "value")):
                for kind, whole in fused.named_parameters():
                    copy = ours.get_parameter(f"attention.inner.{name}.{kind}")
                    target = _by_head(whole, width)[:, index]
                    target.copy_(copy.view(target.shape))


MEMBER = Family(
    model_types=("gpt_neox",),
    embedding=lambda model: Embedding(model.get_input_embeddings()),
    layers=_layers,
    head=lambda model: Head(model.get_output_embeddings(), model.gpt_neox.final_layer_norm),
    write=_write,
)
