"""A first search space for pictures: a residual network on Fashion-MNIST.

    nas-theseus check my_space.py                    every mistake at once, before any training
    nas-theseus search my_space.py --trials 12       some minutes on a CPU
    nas-theseus front my_space                       the best network for each cost

It needs the files of Fashion-MNIST: apt-get install dataset-fashion-mnist, or elsewhere
torchvision.datasets.FashionMNIST("data", download=True). For a pretrained network and a folder of
your own pictures: nas-theseus new other_space.py --from torchvision:resnet18 --images FOLDER
"""

from __future__ import annotations

from nas_theseus import Recipe, SearchSpace, choice, cut
from nas_theseus.blocks import Basic, Bottleneck, Depthwise, Identity, Keep, Pointwise, TokenMLP
from nas_theseus.guide.networks import ResNet
from nas_theseus.tasks import fashion_mnist

TRAIN_IMAGES = 6_000  # candidates learn from these; None for all 55,000


def space() -> SearchSpace:
    """What nas-theseus reads."""
    # The guide: any torch module. `nas-theseus parts` lists where one can be cut.
    network = ResNet(blocks=(2, 2, 2), width=16)
    return SearchSpace(
        # With weights of your own, cut(…, weights="model.safetensors"), leave guide_training out.
        guide=cut(network, network.cuts, inlet=(1, 32, 32)),
        # Your data: nas_theseus.tasks.image_folder(path), with train/<class>/… and test/<class>/…,
        # or from_datasets(train, test, …) with any torchvision data sets.
        task=fashion_mnist(train_images=TRAIN_IMAGES),
        # What may stand for a part, preferred first; choice(…) makes a hyperparameter searched.
        blocks=[
            Keep(),
            Basic(width=choice(0.25, 0.5)),
            Bottleneck(ratio=choice(0.25, 0.5)),
            Depthwise(expand=choice(1, 2), kernel=choice(3, 5)),
            Pointwise(expand=choice(0.5, 1)),
            TokenMLP(hidden=choice(32, 64)),
            Identity(),
        ],
        max_span=2,  # one block may stand for up to two parts in a row
        keep=["head"],  # parts that are never replaced
        guide_training=Recipe(epochs=4, distill=0),  # trains the guide once, before the search
        recipe=Recipe(epochs=2),  # how every candidate is converted and trained
    )


MEMBER = space
