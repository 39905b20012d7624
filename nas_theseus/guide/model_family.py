"""Families of transformers: how the layers of a Hugging Face model become sublayers of one form.

A family is one file in `guide/families`. Most decoders look like Llama and need only the names of
their modules:

    MEMBER = Family(
        model_types=("mymodel",),  # as in config.json
        embedding=lambda model: Embedding(model.model.embed_tokens),
        layers=partial(decoder_layers, norms={"self_attn.q_norm": "attention.inner.query_norm"}),
        head=lambda model: Head(model.lm_head, rms_norm_of(model.model.norm)),
    )

Parts share the model's memory, so that a model of another size can be filled through its parts.
Where a part has a copy instead, as of norms that multiply by 1 + weight, the family also says how
the copy is written back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from nas_theseus.errors import CutError
from nas_theseus.guide.sublayers import (
    MLP,
    Attention,
    Embedding,
    Layer,
    Reading,
    Rotary,
    Sublayer,
    lookup,
    rms_norm,
)
from nas_theseus.values.architecture import Boundary

LLAMA_NORMS: Mapping[str, str] = MappingProxyType(
    {"input_layernorm": "attention.norm", "post_attention_layernorm": "mlp.norm"}
)


@dataclass(frozen=True)
class Family:
    """How models of one family are cut.

    Attributes:
        model_types: values of `model_type` in a model's configuration.
        embedding: the part from the model's inputs to features.
        layers: the layers, in order.
        head: the part from features to the model's outputs.
        causal: whether the models read earlier tokens only, as language models do.
        inlet: shape of one input by the model's configuration. Default: token ids.
        write: sets those parameters of a model of which embedding, layers and head have copies.
            Default: there are none.
    """

    model_types: tuple[str, ...]
    embedding: Callable[[Any], nn.Module]
    layers: Callable[[Any], list[Layer]]
    head: Callable[[Any], nn.Module]
    causal: bool = True
    inlet: Callable[[Any], Boundary] | None = None
    write: Callable[[Any, nn.Module, list[Layer], nn.Module], None] | None = None


def decoder_layers(
    model: Any,
    *,
    norm: Callable[[nn.Module], nn.Module] | None = None,
    norms: Mapping[str, str] = MappingProxyType({}),
    softcap: float | None = None,
) -> list[Layer]:
    """The layers of a model with the module names of Llama.

    Args:
        norm: makes a norm of the model's own. Default: `rms_norm_of`.
        norms: where further norms of the model's layers are in a `Layer`, by their names. A name
            of `LLAMA_NORMS` replaces that entry.
        softcap: limit of the products of queries and keys. Default: none.
    """
    make = norm or rms_norm_of
    decoder = model.model
    found = []
    for layer in decoder.layers:
        made = {
            place: make(layer.get_submodule(name))
            for name, place in {**LLAMA_NORMS, **norms}.items()
        }
        query_norm, key_norm = (made.get(f"attention.inner.{one}_norm") for one in ("query", "key"))
        attention = attention_of(
            layer.self_attn,
            rotary_of(decoder.rotary_emb, getattr(layer.self_attn, "layer_type", None)),
            norms=None if query_norm is None or key_norm is None else (query_norm, key_norm),
            softcap=softcap,
        )
        found.append(
            Layer(
                Sublayer(attention, made.get("attention.norm"), made.get("attention.post")),
                Sublayer(gated_mlp_of(layer.mlp), made.get("mlp.norm"), made.get("mlp.post")),
            )
        )
    return found


def attention_of(
    module: Any,
    rotary: Rotary | None,
    *,
    norms: tuple[nn.Module, nn.Module] | None = None,
    softcap: float | None = None,
) -> Attention:
    """Attention of a module with the names of Llama's: q_proj, k_proj, v_proj and o_proj."""
    return Attention(
        module.q_proj,
        module.k_proj,
        module.v_proj,
        module.o_proj,
        head_width=module.head_dim,
        rotary=rotary,
        norms=norms,
        reading=Reading(
            module.scaling, window_of(module), softcap, getattr(module, "is_causal", True)
        ),
    )


def window_of(attention: Any) -> int | None:
    """The sliding window of a layer's attention; None if it reads all earlier tokens.

    Some families have it on the module, others read it from the configuration.
    """
    if hasattr(attention, "sliding_window"):
        own: int | None = attention.sliding_window
        return own
    config = getattr(attention, "config", None)
    types = getattr(config, "layer_types", None)
    if types is not None and types[attention.layer_idx] != "sliding_attention":
        return None
    if types is None and not getattr(config, "use_sliding_window", True):
        return None
    return getattr(config, "sliding_window", None)


def gated_mlp_of(module: Any) -> MLP:
    """MLP of a module with the names of Llama's: gate_proj, up_proj, down_proj and act_fn."""
    return MLP(
        module.up_proj, module.down_proj, activation_of(module.act_fn), gate=module.gate_proj
    )


# Classes of transformers that compute what a module of torch computes.
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "SiLUActivation": nn.SiLU,
    "GELUActivation": nn.GELU,
    "LinearActivation": nn.Identity,
    **dict.fromkeys(
        (
            "GELUTanh",
            "PytorchGELUTanh",
            "NewGELUActivation",
            "FastGELUActivation",
            "AccurateGELUActivation",
        ),
        lambda: nn.GELU(approximate="tanh"),
    ),
}


def activation_of(module: nn.Module) -> nn.Module:
    """An activation of transformers as torch has it; others as they are."""
    make = _ACTIVATIONS.get(type(module).__name__)
    return module if make is None else make()


def rotary_of(module: Any, layer_type: str | None = None, *, interleaved: bool = False) -> Rotary:
    """Rotary positions with the frequencies of a model's own module.

    Args:
        layer_type: the kind of layer, where each has frequencies of its own (Gemma 3).

    Raises:
        CutError: the frequencies depend on the length of the text.
    """
    kind, prefix = getattr(module, "rope_type", "default"), ""
    if isinstance(kind, Mapping):
        kind, prefix = kind[layer_type], f"{layer_type}_"
    if kind in ("dynamic", "longrope"):
        raise CutError(
            f"rotary positions of the kind {kind!r} change with the length of the text, which a "
            "guide cannot do; set rope_parameters in config.json to another kind, such as "
            "'default', for contexts that the model was trained on"
        )
    frequencies = getattr(module, f"{prefix}inv_freq")
    return Rotary(frequencies, float(getattr(module, f"{prefix}attention_scaling")), interleaved)


def rms_norm_of(module: Any) -> nn.RMSNorm:
    """A norm like Llama's, with weight and variance_epsilon."""
    return rms_norm(module.weight, module.variance_epsilon)


def scaled_embedding_of(model: Any) -> Embedding:
    """The embedding of a model like Gemma, which multiplies by the root of the width."""
    tokens = model.model.embed_tokens  # of a class of its own, which scales
    return Embedding(lookup(tokens.weight), scale=model.config.hidden_size**0.5)


def shifted_rms_norm_of(module: Any) -> nn.RMSNorm:
    """A copy of a norm like Gemma's, which multiplies by 1 + weight."""
    weight = (1.0 + module.weight.detach().float()).to(module.weight.dtype)
    return rms_norm(weight, module.eps)


def write_shifted_norms(
    model: Any, layers: list[Layer], head: nn.Module, norms: Mapping[str, str]
) -> None:
    """Set the norms of a model like Gemma from the copies of `shifted_rms_norm_of`.

    Args:
        norms: as for `decoder_layers`.
    """
    pairs = [(model.model.norm, head.get_submodule("norm"))]
    for theirs, ours in zip(model.model.layers, layers, strict=True):
        pairs += [
            (theirs.get_submodule(name), ours.get_submodule(place))
            for name, place in {**LLAMA_NORMS, **norms}.items()
        ]
    with torch.no_grad():
        for norm, copy in pairs:
            norm.weight.copy_(copy.get_parameter("weight").float() - 1.0)
