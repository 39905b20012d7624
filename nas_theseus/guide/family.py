"""Families of transformers: how the layers of a Hugging Face model become sublayers of one form.

A family is one file in `guide/families`. Most decoders look like Llama and need only the names of
their modules:

    MEMBER = Family(
        model_types=("mymodel",),  # as in config.json
        embedding=lambda model: Embedding(model.model.embed_tokens),
        layers=partial(decoder_layers, query_norm="self_attn.q_norm", key_norm="self_attn.k_norm"),
        head=lambda model: Head(model.lm_head, rms_norm_of(model.model.norm)),
    )

Parts share the model's parameters, so that a model of another size can be filled through its parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nas_theseus.errors import CutError
from nas_theseus.guide.sublayers import MLP, Attention, Layer, Rotary, Sublayer, rms_norm


@dataclass(frozen=True)
class Family:
    """How models of one family are cut.

    Attributes:
        model_types: values of `model_type` in a model's configuration.
        embedding: the part from the model's inputs to features.
        layers: the layers, in order.
        head: the part from features to the model's outputs.
        causal: whether the models read earlier tokens only, as language models do.
    """

    model_types: tuple[str, ...]
    embedding: Callable[[Any], nn.Module]
    layers: Callable[[Any], list[Layer]]
    head: Callable[[Any], nn.Module]
    causal: bool = True


def decoder_layers(
    model: Any,
    *,
    norm: Callable[[nn.Module], nn.Module] | None = None,
    query_norm: str | None = None,
    key_norm: str | None = None,
) -> list[Layer]:
    """The layers of a model with the module names of Llama.

    Args:
        norm: makes a norm of the model's own. Default: `rms_norm_of`.
        query_norm, key_norm: names of norms over each head, such as ``self_attn.q_norm``.
    """
    make = norm or rms_norm_of
    decoder = model.model

    def head_norm(layer: nn.Module, name: str | None) -> nn.Module | None:
        return None if name is None else make(layer.get_submodule(name))

    return [
        Layer(
            Sublayer(
                attention_of(
                    layer.self_attn,
                    rotary_of(decoder.rotary_emb),
                    query_norm=None
                    if query_norm is None
                    else make(layer.get_submodule(query_norm)),
                    key_norm=head_norm(layer, key_norm),
                ),
                make(layer.input_layernorm),
            ),
            Sublayer(gated_mlp_of(layer.mlp), make(layer.post_attention_layernorm)),
        )
        for layer in decoder.layers
    ]


def attention_of(
    module: Any,
    rotary: Rotary | None,
    *,
    query_norm: nn.Module | None = None,
    key_norm: nn.Module | None = None,
    softcap: float | None = None,
) -> Attention:
    """Attention of a module with the names of Llama's: q_proj, k_proj, v_proj and o_proj."""
    return Attention(
        module.q_proj,
        module.k_proj,
        module.v_proj,
        module.o_proj,
        head_width=module.head_dim,
        scale=module.scaling,
        rotary=rotary,
        query_norm=query_norm,
        key_norm=key_norm,
        window=window_of(module),
        softcap=softcap,
    )


def window_of(attention: Any) -> int | None:
    """The sliding window of a layer's attention; None if it reads all earlier tokens.

    Some families have it on the module, others read it from the configuration.
    """
    config = attention.config
    types = getattr(config, "layer_types", None)
    if types is not None and types[attention.layer_idx] != "sliding_attention":
        return None
    if types is None and not getattr(config, "use_sliding_window", True):
        return None
    return getattr(config, "sliding_window", None)


def gated_mlp_of(module: Any) -> MLP:
    """MLP of a module with the names of Llama's: gate_proj, up_proj, down_proj and act_fn."""
    return MLP(module.up_proj, module.down_proj, module.act_fn, module.gate_proj)


def rotary_of(module: Any, interleaved: bool = False) -> Rotary:
    """Rotary positions with the frequencies of a model's own module.

    Raises:
        CutError: the frequencies depend on the length of the text.
    """
    kind = getattr(module, "rope_type", "default")
    if kind in ("dynamic", "longrope"):
        raise CutError(
            f"rotary positions of the kind {kind!r} change with the length of the text, which a "
            "guide cannot do; set rope_parameters in config.json to another kind, such as "
            "'default', for contexts that the model was trained on"
        )
    return Rotary(module.inv_freq, float(module.attention_scaling), interleaved)


def rms_norm_of(module: Any) -> nn.RMSNorm:
    """A norm like Llama's, with weight and variance_epsilon."""
    return rms_norm(module.weight, module.variance_epsilon)


def shifted_rms_norm_of(module: Any) -> nn.RMSNorm:
    """A norm like Gemma's, which multiplies by 1 + weight."""
    with torch.no_grad():
        return rms_norm(nn.Parameter(1.0 + module.weight.detach().float()), module.eps)
