"""Regression in seconds: scikit-learn's diabetes data, a multilayer perceptron as guide."""

from __future__ import annotations

from torch import nn

from nas_theseus import Recipe, SearchSpace, cut
from nas_theseus.blocks import MLP, Identity, Keep, Linear, choice
from nas_theseus.tasks import diabetes


def layer(inlet: int, outlet: int) -> nn.Sequential:
    """Linear map and activation; dropout because the data are few."""
    return nn.Sequential(nn.Linear(inlet, outlet), nn.ReLU(), nn.Dropout(0.2))


def network(width: int = 64) -> nn.Sequential:
    """Four hidden layers and one number, the standardised target."""
    net = nn.Sequential()
    net.add_module("first", layer(10, width))
    for number in range(1, 4):
        net.add_module(f"hidden{number}", layer(width, width))
    net.add_module("head", nn.Linear(width, 1))
    return net


def space() -> SearchSpace:
    """What nas-theseus reads."""
    return SearchSpace(
        guide=cut(network(), ["first", "hidden1", "hidden2", "hidden3"], (10,)),
        task=diabetes(),
        blocks=[Keep(), MLP(hidden=choice(0.125, 0.25, 0.5)), Linear(), Identity()],
        max_span=2,
        guide_training=Recipe(epochs=40, distill=0, batch_size=32, learning_rate=2e-3),
        recipe=Recipe(
            align_steps=20,
            align_examples=256,
            align_batch_size=64,
            epochs=10,
            batch_size=32,
            learning_rate=2e-3,
        ),
    )
