"""A first search space: a small network on scikit-learn's digits, and one block of your own.

    nas-theseus check my_space.py                    every mistake at once, before any training
    nas-theseus search my_space.py --trials 12       a minute or two on a CPU
    nas-theseus front my_space                       the best network for each cost

Then replace the network, the data and the blocks, step by step, by your own.
"""

from __future__ import annotations

from torch import Tensor, nn

from nas_theseus import Boundary, Recipe, SearchSpace, block, choice, cut
from nas_theseus.blocks import Depthwise, Keep, Linear, downsampling
from nas_theseus.tasks import digits


class GatedConv(nn.Module):
    """A block of one's own: its constructor takes the inlet and outlet shapes, nothing else.

    `Boundary.shape` is (C, H, W) for feature maps, (T, D) for tokens. Raise ShapeError (as
    `downsampling` does) where the block cannot stand. Calling the final linear layer `last` lets
    the search fold the stitch into it; without it a linear layer is added behind the block.
    """

    def __init__(self, inlet: Boundary, outlet: Boundary, hidden: int = 16) -> None:
        super().__init__()
        stride = downsampling(inlet, outlet)
        self.value = nn.Conv2d(inlet.width, hidden, 3, stride, 1)
        self.gate = nn.Conv2d(inlet.width, hidden, 1, stride)
        self.last = nn.Conv2d(hidden, outlet.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.value(x) * self.gate(x).sigmoid())
        return out


def network() -> nn.Module:
    """The guide: any torch module. `nas-theseus parts` lists where one can be cut."""

    def conv(inlet: int, outlet: int, stride: int = 1) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inlet, outlet, 3, stride, 1), nn.BatchNorm2d(outlet), nn.ReLU()
        )

    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    return nn.Sequential(conv(1, 16), conv(16, 16), conv(16, 32, stride=2), conv(32, 32), head)


def space() -> SearchSpace:
    """What nas-theseus reads."""
    return SearchSpace(
        # Your weights: cut(model, at, inlet, weights="model.safetensors"), and leave
        # guide_training out. A model from torchvision or timm with its weights works as well.
        guide=cut(network(), at=["0", "1", "2", "3"], inlet=(1, 8, 8)),
        # Your data: nas_theseus.tasks.image_folder(path), or from_datasets(train, test, …) with
        # any torchvision data sets; text_file(path) for language models; regression(train, test).
        task=digits(),
        # What may stand for a part, preferred first; choice(…) makes a hyperparameter searched.
        blocks=[
            Keep(),
            Depthwise(expand=choice(1, 2)),
            block(GatedConv, hidden=choice(8, 16)),
            Linear(),
        ],
        max_span=2,  # one block may stand for up to two parts in a row
        keep=["head"],  # parts that are never replaced
        constraints=["macs <= 600e3"],  # hard limits, on metrics and costs
        guide_training=Recipe(epochs=10, distill=0),  # trains the guide once, before the search
        recipe=Recipe(epochs=3, align_steps=20),  # how every candidate is converted and trained
    )


MEMBER = space
