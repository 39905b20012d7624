"""Guides for networks that torch.fx cannot trace, built from the network's own modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_theseus.errors import CutError
from nas_theseus.guide.chain import Guide
from nas_theseus.guide.cut import refuse_other_outputs
from nas_theseus.guide.weights import load_given_weights
from nas_theseus.values.architecture import Boundary

_GPT2_MODULES = (
    "transformer.wte",
    "transformer.wpe",
    "transformer.drop",
    "transformer.h",
    "transformer.ln_f",
    "lm_head",
)


class _Embedding(nn.Module):
    """Token and position embeddings, ids (N, T) to (N, T, D)."""

    def __init__(self, tokens: nn.Module, positions: nn.Module, dropout: nn.Module) -> None:
        super().__init__()
        self.tokens, self.positions, self.dropout = tokens, positions, dropout

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        features: Tensor = self.dropout(self.tokens(ids) + self.positions(places))
        return features


class _CausalBlock(nn.Module):
    """One transformer block with a causal mask, (N, T, D) to (N, T, D)."""

    def __init__(self, block: nn.Module, attention: str) -> None:
        super().__init__()
        self.block = block
        self.masks_itself = attention == "sdpa"

    def forward(self, features: Tensor) -> Tensor:
        mask = None
        if not self.masks_itself:
            length = features.shape[1]
            lowest = torch.finfo(features.dtype).min
            mask = features.new_full((1, 1, length, length), lowest).triu(diagonal=1)
        found = self.block(features, attention_mask=mask)
        # Blocks of older transformers releases return a tuple.
        result: Tensor = found[0] if isinstance(found, tuple) else found
        return result


def gpt2_guide(model: nn.Module, context: int, *, weights: str | Path | None = None) -> Guide:
    """The guide of a Hugging Face ``GPT2LMHeadModel``: parts embed, block0, block1, … and head.

    The parts share the model's parameters; embed and head stay tied if the model ties them.

    Args:
        context: number of tokens of one input, T; the guide maps ids (T,) to logits (T, V).
        weights: safetensors file or weights-only checkpoint with the state dict of `model`.

    Raises:
        CutError: the model is of another kind, its attention is neither "sdpa" nor "eager", the
            context is longer than the model's positions, or the chain computes other outputs.
        GuideError: the weights file is missing, damaged or from another network.
    """
    config: Any = getattr(model, "config", None)
    attention = getattr(config, "_attn_implementation", None)
    missing = [name for name in _GPT2_MODULES if not _has(model, name)]
    if getattr(config, "model_type", None) != "gpt2" or missing:
        raise CutError(
            f"gpt2_guide takes a GPT2LMHeadModel of transformers (config.model_type 'gpt2' with "
            f"{', '.join(_GPT2_MODULES)}), not {type(model).__name__}; for other language models "
            "build a chain: Guide([(name, module), …], Boundary((context,), integer=True))"
        )
    if attention not in ("sdpa", "eager"):
        raise CutError(
            "gpt2_guide supports the attention implementations 'sdpa' and 'eager', not "
            f"{attention!r}; load the model with attn_implementation='sdpa'"
        )
    embedding, positions, dropout, blocks, norm, head = map(model.get_submodule, _GPT2_MODULES)
    longest = int(config.max_position_embeddings)
    if not 1 <= context <= longest:
        raise CutError(f"a context of {context} tokens does not fit; this model has 1 to {longest}")
    load_given_weights(model, weights)
    parts = [
        ("embed", _Embedding(embedding, positions, dropout)),
        *(
            (f"block{index}", _CausalBlock(block, attention))
            for index, block in enumerate(blocks.children())
        ),
        ("head", nn.Sequential(norm, head)),
    ]
    guide = Guide(parts, Boundary((context,), integer=True))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(int(config.vocab_size), (2, min(context, 32)), generator=generator)
    refuse_other_outputs(guide, model, ids)
    return guide


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True
