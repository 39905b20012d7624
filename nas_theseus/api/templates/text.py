"""A first search space for text: a small transformer over characters, trained here.

    nas-theseus check my_space.py                    every mistake at once, before any training
    nas-theseus search my_space.py --trials 12       some minutes on a CPU
    nas-theseus front my_space                       the best network for each cost

For a pretrained model: nas-theseus new other_space.py --language-model FOLDER
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

from torch import Tensor, arange, nn
from torch.nn import functional

from nas_theseus import Guide, Recipe, SearchSpace, choice
from nas_theseus.blocks import GRU, CausalConv, ChannelMLP, Identity, Keep, MinimalRNN
from nas_theseus.tasks import text_file

TEXTS: Path | None = None  # a folder of .txt and .md files; None for Python's own library
CHARACTERS = 300_000  # how much of the text is read; None for all
CONTEXT = 64  # characters that a network sees at once
WIDTH = 64


class Embedding(nn.Module):
    """Ids (B, T) to features (B, T, D): what the character is, and where it is."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(vocabulary, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        places = arange(ids.shape[1], device=ids.device)
        out: Tensor = self.characters(ids) + self.positions(places)
        return out


class Layer(nn.Module):
    """Attention to earlier characters, then an MLP, both with a skip."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.read = nn.Linear(WIDTH, 3 * WIDTH)
        self.write = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        split = self.read(self.norm1(x)).unflatten(-1, (3, self.heads, -1))  # (B, T, 3, heads, K)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        read = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.write(read.transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def space() -> SearchSpace:
    """What nas-theseus reads."""
    task = text_file(texts(), context=CONTEXT, characters=CHARACTERS, name="text")
    vocabulary = task.outputs.shape[1]
    head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocabulary))
    return SearchSpace(
        # The guide as a list of parts, each of which takes the output of the one before.
        guide=Guide(
            [
                ("embed", Embedding(vocabulary)),
                *((f"layer{number}", Layer()) for number in range(3)),
                ("head", head),
            ],
            task.inlet,
        ),
        task=task,
        # What may stand for a part, preferred first; choice(…) makes a hyperparameter searched.
        blocks=[
            Keep(),
            MinimalRNN(hidden=choice(1.0, 2.0), kernel=choice(4, 0), mlp=choice(2.0, 0.0)),
            GRU(hidden=choice(1.0, 0.5), mlp=choice(2.0, 0.0)),
            CausalConv(kernel=4, expand=choice(2.0, 1.0)),
            ChannelMLP(hidden=2.0),
            Identity(),
        ],
        max_span=2,  # one block may stand for up to two parts in a row
        keep=["embed", "head"],  # parts that are never replaced
        # Trains the guide once, before the search.
        guide_training=Recipe(epochs=4, batch_size=32, learning_rate=3e-3, distill=0),
        # How every candidate is converted and trained.
        recipe=Recipe(
            epochs=1,
            batch_size=32,
            learning_rate=3e-3,
            align_examples=256,
            align_steps=100,
            align_batch_size=8,
        ),
    )


def texts() -> list[Path]:
    """The files that are read, in order."""
    if TEXTS is not None:
        return sorted(path for end in ("*.txt", "*.md") for path in TEXTS.rglob(end))
    return sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))


MEMBER = space
