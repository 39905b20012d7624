"""A network as a model of its guide's own kind, where only sizes differ."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from nas_theseus.errors import ExportError, GuideError
from nas_theseus.export.huggingface.description import Describer, tied
from nas_theseus.guide.huggingface import Pretrained, cut_model, family_of, fill
from nas_theseus.guide.sublayers import MLP, Attention, Layer, Sublayer

# Not handed on from the guide's configuration.
_DROPPED = ("_name_or_path", "architectures", "dtype", "model_type", "transformers_version")


def plain_model(blocks: Sequence[nn.Module], pretrained: Pretrained) -> Any | None:
    """A model of transformers with the weights of these blocks; None if no configuration fits.

    Args:
        blocks: a network's blocks, without those that do nothing.
    """
    family = family_of(pretrained.config.model_type)
    changes = _changes(blocks)
    if changes is None or not family.causal:
        return None
    own = pretrained.config.model_type
    for model_type in (own, *(other for other in family.model_types if other != own)):
        model = _fresh(model_type, pretrained.config, changes)
        if model is None:
            continue
        if _same_form([part for _, part in cut_model(model)], blocks):
            try:
                fill(model, blocks)
            except GuideError:  # weights that models of this kind share differ here
                continue
            return model
    return None


def _changes(blocks: Sequence[nn.Module]) -> dict[str, Any] | None:
    """The sizes of a network by the names that configurations have; None if layers differ."""
    sublayers = list(_sublayers(blocks[1:-1]))
    attentions = [one.inner for one in sublayers if isinstance(one.inner, Attention)]
    mlps = [one.inner for one in sublayers if isinstance(one.inner, MLP)]
    if not attentions or len(sublayers) != 2 * len(attentions) or len(mlps) != len(attentions):
        return None
    try:
        sizes = {
            (attention.heads, attention.key_heads, attention.head_width, mlp.up.out_features)
            for attention, mlp in zip(attentions, mlps, strict=True)
        }
    except AttributeError:  # maps that are no nn.Linear
        return None
    if len(sizes) > 1:
        return None
    heads, key_heads, head_width, hidden = sizes.pop()
    return {
        "num_hidden_layers": len(attentions),
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": head_width,
        "intermediate_size": hidden,
        "n_inner": hidden,
        "windows": [attention.window for attention in attentions],
        "tie_word_embeddings": tied(list(blocks)),
    }


def _sublayers(blocks: Sequence[nn.Module]) -> Iterator[Any]:
    """The sublayers of blocks, in order; modules that are none as they are."""
    for block in blocks:
        if isinstance(block, Layer):
            yield from (block.attention, block.mlp)
        else:
            yield block if isinstance(block, Sublayer) else Sublayer(block)


def _fresh(model_type: str, guide: Any, changes: dict[str, Any]) -> Any | None:
    """A model with random weights; None if its configuration cannot say what is wanted."""
    transformers = importlib.import_module("transformers")
    known = {key: value for key, value in guide.to_dict().items() if key not in _DROPPED}
    names = getattr(guide, "attribute_map", {})
    if model_type != guide.model_type:
        fields = transformers.AutoConfig.for_model(model_type).to_dict()
        known = {key: value for key, value in known.items() if key in fields}
        known |= {key: None for key in ("sliding_window",) if key in fields}
    found = dict(known)
    for name, value in changes.items():
        key = names.get(name, name)
        if key in known or (
            name == "head_dim" and value * changes["num_attention_heads"] != guide.hidden_size
        ):
            found[key] = value
    windows = changes["windows"]
    widths = {one for one in windows if one is not None}
    if widths and "sliding_window" in known:
        found["sliding_window"] = max(widths)
    if "use_sliding_window" in known:
        found["use_sliding_window"] = bool(widths)
    if known.get("layer_types") is not None:
        kinds = ("full_attention", "sliding_attention")
        found["layer_types"] = [kinds[one is not None] for one in windows]
    try:
        with torch.random.fork_rng(devices=[]):
            config = transformers.AutoConfig.for_model(model_type, **found)
            return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    except Exception:  # configurations refuse sizes that do not fit with many kinds of errors
        return None


def _same_form(parts: Sequence[nn.Module], blocks: Sequence[nn.Module]) -> bool:
    """Whether the parts of a model are of the same kinds and sizes as a network's blocks."""
    described = []
    for modules in (parts, blocks):
        describer = Describer()
        try:
            found = [describer.module(one) for one in _flat(modules)]
        except ExportError:
            return False
        described.append((found, describer.tables))
    return described[0] == described[1]


def _flat(modules: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """Embedding, sublayers and head; layers whose sublayers are parallel as they are."""
    for module in modules:
        if isinstance(module, Layer) and not module.parallel:
            yield from (module.attention, module.mlp)
        else:
            yield module
