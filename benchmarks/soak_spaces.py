"""Small spaces of the soak: pictures, numbers and text, each trained in a second or two."""

from __future__ import annotations

from tests.faults.commands import SPACE

NUMBERS = """
from torch import nn
from nas_theseus import Recipe, SearchSpace, choice, cut
from nas_theseus.blocks import MLP, Identity, Keep, Linear
from nas_theseus.tasks import diabetes


def space():
    def layer(inlet, outlet):
        return nn.Sequential(nn.Linear(inlet, outlet), nn.ReLU())

    net = nn.Sequential(layer(10, 24), layer(24, 24), layer(24, 24), nn.Linear(24, 1))
    return SearchSpace(
        guide=cut(net, ["0", "1", "2"], (10,)),
        task=diabetes(),
        blocks=[Keep(), MLP(hidden=choice(0.25, 0.5, 1)), Linear(), Identity()],
        max_span=2,
        guide_training=Recipe(epochs=10, distill=0, batch_size=32, learning_rate=2e-3),
        recipe=Recipe(epochs=3, align_steps=5, align_examples=128, batch_size=32),
    )
"""

TEXT = """
import sysconfig
from pathlib import Path
from torch import Tensor, nn
from nas_theseus import Guide, Recipe, SearchSpace, choice
from nas_theseus.blocks import CausalConv, ChannelMLP, Identity, Keep, MinimalRNN
from nas_theseus.tasks import text_file

WIDTH = 16


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.mix = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(self.norm(x))[0]


def space():
    source = Path(sysconfig.get_paths()["stdlib"]) / "argparse.py"
    task = text_file([source], context=16, characters=20_000, name="text")
    vocabulary = task.outputs.shape[1]
    head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocabulary))
    parts = [("embed", nn.Embedding(vocabulary, WIDTH)), ("layer0", Layer()),
             ("layer1", Layer()), ("head", head)]
    return SearchSpace(
        guide=Guide(parts, task.inlet),
        task=task,
        blocks=[Keep(), MinimalRNN(hidden=choice(1.0, 2.0), kernel=choice(4, 0), mlp=2.0),
                CausalConv(kernel=4, expand=choice(2.0, 1.0)), ChannelMLP(hidden=2.0), Identity()],
        max_span=2,
        keep=["embed", "head"],
        guide_training=Recipe(epochs=1, batch_size=32, learning_rate=3e-3, distill=0),
        recipe=Recipe(epochs=2, batch_size=32, learning_rate=3e-3, align_examples=64,
                      align_steps=5, align_batch_size=8),
    )
"""

SPACES = {"pictures": SPACE, "numbers": NUMBERS, "text": TEXT}
