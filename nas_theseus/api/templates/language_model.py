"""A first search space for a pretrained language model: smaller budgets.

    nas-theseus check my_space.py
    nas-theseus search my_space.py --all-blocks --trials 0      converts and scores every block
    nas-theseus front my_space --at "macs <= 1e10"              the best models, untrained
    nas-theseus search my_space.py --trials 20                  trains the most promising

It needs pip install 'nas-theseus[guides,text]'.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

from nas_theseus import Recipe, SearchSpace, choice, minimize
from nas_theseus.blocks import (
    AttentionToLinear,
    FewerHeads,
    Keep,
    LinearPart,
    NarrowMLP,
    SkipPart,
)
from nas_theseus.guide.huggingface import huggingface_guide
from nas_theseus.tasks import text_files

# A folder as save_pretrained writes it (config.json, safetensors, tokenizer), or a GGUF file.
MODEL = Path("my_model")
# Files of .txt, .md, .rst or .parquet, at any depth; some megabytes at least, like what the model
# will see. None for Python's own library, which only shows that it works.
TEXTS: Path | None = None
CONTEXT = 128  # tokens that a network sees at once


def space() -> SearchSpace:
    """What nas-theseus reads."""
    # Each layer becomes two parts: attention0 and mlp0, attention1 and mlp1, and so on.
    guide = huggingface_guide(MODEL, CONTEXT)
    attention = [name for name in guide.names if name.startswith("attention")]
    mlp = [name for name in guide.names if name.startswith("mlp")]
    return SearchSpace(
        guide=guide,
        task=text_files(
            TEXTS or sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")),
            tokenizer=MODEL,
            context=CONTEXT,
            vocabulary=guide.boundaries[-1].shape[1],  # many models round it up
            name="texts",
            # Every network is scored on these several times.
            tokens={"validation": 32 * CONTEXT + 1, "test": 96 * CONTEXT + 1},
        ),
        # What may stand for a part; these begin near the part, so they are useful untrained.
        blocks=[
            Keep(),
            NarrowMLP(keep=choice(0.75, 0.5, 0.25)).on(*mlp),
            FewerHeads(keep=choice(0.67, 0.33)).on(*attention),
            AttentionToLinear(window=16, slots=32).on(*attention),
            LinearPart().on(*attention),
            SkipPart().on(*attention, *mlp),
        ],
        keep=["embed", "head"],  # parts that are never replaced
        # Add minimize("kv_cache_bytes", log=False) or minimize("decode_latency_ms") for text that
        # is generated.
        objectives=[minimize("val_perplexity"), minimize("macs")],
        recipe=Recipe(
            align_examples=128,
            align_steps=0,  # these blocks begin at their least-squares solution
            activations_dtype="bfloat16",
            steps=40,
            batch_size=4,
            learning_rate=3e-4,
            warmup=0.1,
            distill=1.0,  # the guide's outputs are learnt, not the text's own tokens
            temperature=1.0,
            hidden=1.0,
        ),
    )


MEMBER = space
