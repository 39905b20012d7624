"""Small language models as found networks, for tests of the Hugging Face format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.blocks import (
    BlockFamily,
    FewerHeads,
    FewerKeyValueHeads,
    Keep,
    LinearPart,
    LowRank,
    NarrowMLP,
    SkipPart,
    SlidingWindow,
    block,
)
from nas_theseus.conversion.target import assemble
from nas_theseus.export.member import Member
from nas_theseus.guide.huggingface import huggingface_guide
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

    def __init__(
        self, tokenizer: Path | None = None, context: int = CONTEXT, vocabulary: int = VOCABULARY
    ) -> None:
        super().__init__(Boundary((context,), integer=True), Boundary((context, vocabulary)))
        self.tokenizer = tokenizer


KEEP = Keep()
NARROW = NarrowMLP(keep=0.5)
NARROWER = replace(NarrowMLP(keep=0.25), name="narrower")
SLIDING = SlidingWindow(window=5)
ONE_HEAD = FewerHeads(keep=0.5)
SHARED_KEYS = FewerKeyValueHeads(heads=1)
LOW_RANK = LowRank(rank=0.25)
SKIP = SkipPart()
LINEAR = LinearPart()


def made_of_part(factory: Callable[..., nn.Module]) -> BlockFamily:
    """A block of one's own, called as its factory."""
    return replace(block(factory), of_part=True)


def found_model(
    model: Any, chosen: dict[str, BlockFamily], task: Texts | None = None, **options: Any
) -> Member:
    """A found network: blocks for these parts, all others kept."""
    context = CONTEXT if task is None else task.inlet.shape[0]
    guide = huggingface_guide(model, context, **options)
    families = list({one.name: one for one in (KEEP, *chosen.values())}.values())
    space = SearchSpace(guide=guide, task=task or Texts(), blocks=families)  # type: ignore[arg-type]
    choices = []
    for index, name in enumerate(guide.names):
        family = chosen.get(name, KEEP)
        variant = next(family.variants())
        choices.append(BlockChoice(Span(index, index + 1), family.name, variant))
    network = assemble(space, Architecture(tuple(choices)), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():  # a stand-in that nothing was fitted to
                parameter.normal_(0, 0.02, generator=generator)
    costs = Cost({"macs": 1_234_567, "params": 5})
    evaluation = Evaluation(network.architecture, "r", 0, {"val_perplexity": 17.5}, costs, 0, 0.1)
    return Member(network.eval(), space, evaluation)


def generate(model: Any, ids: Tensor, **options: Any) -> Tensor:
    """Texts that go on from others, without an end."""
    given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "pad_token_id": 0}
    model.generation_config.eos_token_id = None
    found: Tensor = model.generate(ids, **{**given, "do_sample": False, **options})
    return found
