"""Small language models as found networks, for tests of the Hugging Face format."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas_theseus.blocks import BlockFamily, Keep
from nas_theseus.conversion.target import assemble
from nas_theseus.export.member import Member
from nas_theseus.guide.huggingface import huggingface_guide
from nas_theseus.guide.sublayers import MLP, Attention, Sublayer
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture, BlockChoice, Boundary, Span
from nas_theseus.values.outcomes import Cost, Evaluation
from tests.unit.export.members import AnyInputs

CONTEXT, VOCABULARY, LAYERS = 24, 128, 4


def llama(**changes: Any) -> Any:
    """A Llama with random weights."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **changes}))
    return model.eval()


class Texts(AnyInputs):
    """Token ids without meaning."""

    name = "texts"
    tokenizer: Path | None = None

    def __init__(self, tokenizer: Path | None = None) -> None:
        outputs = Boundary((CONTEXT, VOCABULARY))
        super().__init__(Boundary((CONTEXT,), integer=True), outputs)
        self.tokenizer = tokenizer


def narrow_mlp(part: Any, features: Any, hidden: int) -> nn.Module:
    """The first hidden units of an MLP."""
    del features
    assert isinstance(part.inner, MLP)
    found = copy.deepcopy(part)
    for name in ("gate", "up"):
        linear = getattr(found.inner, name)
        linear.weight = nn.Parameter(linear.weight[:hidden].detach().clone())
        linear.out_features = hidden
    found.inner.down.weight = nn.Parameter(found.inner.down.weight[:, :hidden].detach().clone())
    found.inner.down.in_features = hidden
    return found


def sliding(part: Any, features: Any, window: int) -> nn.Module:
    """The same attention, over a window."""
    del features
    assert isinstance(part.inner, Attention)
    found = copy.deepcopy(part)
    found.inner.window = window
    return found


def single_head(part: Any, features: Any, heads: int) -> nn.Module:
    """The first heads of an attention, with one key head."""
    del features
    inner, width = part.inner, part.inner.head_width
    made = [nn.Linear(64, heads * width, bias=False), *(nn.Linear(64, width, bias=False),) * 2]
    query, key, value = (copy.deepcopy(one) for one in made)
    output = nn.Linear(heads * width, 64, bias=False)
    attention = Attention(query, key, value, output, head_width=width, rotary=inner.rotary)
    return Sublayer(attention, part.norm)


def made_of_part(name: str, factory: Callable[..., nn.Module], **values: Any) -> BlockFamily:
    choices = tuple((key, (value,)) for key, value in sorted(values.items()))
    return BlockFamily(name, factory, choices, of_part=True)


KEEP = Keep()
NARROW = made_of_part("narrow", narrow_mlp, hidden=40)
NARROWER = made_of_part("narrower", narrow_mlp, hidden=16)
SLIDING = made_of_part("sliding", sliding, window=5)
ONE_HEAD = made_of_part("heads", single_head, heads=2)


def found_model(
    model: Any, chosen: dict[str, BlockFamily], task: Texts | None = None, **options: Any
) -> Member:
    """A found network: blocks for these parts, all others kept."""
    guide = huggingface_guide(model, CONTEXT, **options)
    families = list({one.name: one for one in (KEEP, *chosen.values())}.values())
    space = SearchSpace(guide=guide, task=task or Texts(), blocks=families)  # type: ignore[arg-type]
    choices = []
    for index, name in enumerate(guide.names):
        family = chosen.get(name, KEEP)
        variant = next(family.variants())
        choices.append(BlockChoice(Span(index, index + 1), family.name, variant))
    network = assemble(space, Architecture(tuple(choices)), 0)
    costs = Cost({"macs": 1_234_567, "params": 5})
    evaluation = Evaluation(network.architecture, "r", 0, {"val_perplexity": 17.5}, costs, 0, 0.1)
    return Member(network.eval(), space, evaluation)
