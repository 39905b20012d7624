"""A guide that contains stitchable networks, so that a search can choose among stitches."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence

from torch import nn

from nas_theseus.blocks import BlockFamily, block
from nas_theseus.blocks.family import Choice
from nas_theseus.conversion.finetune import EpochLoss, train
from nas_theseus.conversion.training_checkpoint import Checkpoints
from nas_theseus.costs import count_macs
from nas_theseus.errors import ShapeError
from nas_theseus.guide.chain import Guide
from nas_theseus.stitching.anchors import Anchor
from nas_theseus.stitching.stitchable import Direction, StitchableNet
from nas_theseus.stitching.training import train_stitches
from nas_theseus.tasks import Task
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.ids import derive_seed, short_hash
from nas_theseus.values.recipe import Recipe


class StitchedNetwork(nn.Sequential):
    """One network of a stitchable net, as a block of a search."""

    @property
    def last(self) -> nn.Linear | None:
        """The last linear layer, which computes the output."""
        return next((m for m in reversed(list(self.modules())) if isinstance(m, nn.Linear)), None)


class StitchableGuide(Guide):
    """The largest anchor as a chain of parts, together with stitchable nets of its family.

    Like any guide it is trained once, and its weights are sent to every worker: first the anchors
    on the task, then each net's stitches by least squares, then each net by `train_stitches`. The
    block family `stitched` replaces the whole chain and starts as one network of a net.

    Args:
        anchors: as for `StitchableNet`.
        stitch_training: recipe to train each net after least squares.
        sizes: sizes of sliding windows; there is one net for each size and direction.
        stride: stride of the windows.
        fit_examples: number of training inputs for least squares.
    """

    def __init__(
        self,
        anchors: Sequence[Anchor],
        *,
        stitch_training: Recipe,
        sizes: Sequence[int] = (2, 1),
        stride: int = 1,
        directions: Sequence[Direction] = ("fast-to-slow", "slow-to-fast"),
        fit_examples: int = 512,
    ) -> None:
        *smaller, largest = sorted(
            anchors, key=lambda anchor: count_macs(anchor.network, anchor.task.inlet)
        )
        parts = copy.deepcopy(list(largest.network.parts))
        super().__init__(list(zip(largest.network.names, parts, strict=True)), largest.task.inlet)
        self.largest = largest.name
        self.smaller = nn.ModuleDict({a.name: copy.deepcopy(a.network) for a in smaller})
        self.stitch_training, self.fit_examples = stitch_training, fit_examples
        self.sizes, self.directions = tuple(sizes), tuple(directions)
        self.nets = nn.ModuleDict(
            {
                _key(size, direction): StitchableNet(
                    anchors, size=size, stride=stride, direction=direction
                )
                for size, direction in itertools.product(sizes, directions)
            }
        )

    def net(self, size: int, direction: str) -> StitchableNet:
        """The net for one window size and direction."""
        found = self.nets[_key(size, direction)]
        assert isinstance(found, StitchableNet)
        return found

    def content_hash(self) -> str:
        """The guide's hash, which also includes how the nets are trained."""
        return short_hash([super().content_hash(), self.stitch_training.id, self.fit_examples], 16)

    def learn(
        self, task: Task, recipe: Recipe, seed: int, checkpoints: Checkpoints | None = None
    ) -> Iterator[EpochLoss]:
        """Train the anchors by `recipe`, then every net by `stitch_training`.

        Args:
            checkpoints: one for each anchor, then one for each net.

        Raises:
            ConversionError: training diverged, or there are too few examples for least squares.
            GuideError: the anchors do not share task and data.
        """
        chain = nn.Sequential(*self.parts)
        for name, network in ((self.largest, chain), *self.smaller.items()):
            checkpoint = checkpoints.next() if checkpoints else None
            yield from train(network, task, recipe, derive_seed(name, seed), checkpoint=checkpoint)
        anchors = {n: g for n, g in self.smaller.items() if isinstance(g, Guide)}
        for key, net in self.nets.items():
            assert isinstance(net, StitchableNet)
            net.adopt(
                {
                    self.largest: Guide(
                        list(zip(self.names, self.parts, strict=True)), self.boundaries[0]
                    ),
                    **anchors,
                }
            )
            net.fit(self.fit_examples)
            checkpoint = checkpoints.next() if checkpoints else None
            events = train_stitches(
                net, task, self.stitch_training, derive_seed(key, seed), checkpoint
            )
            yield from (event for event in events if isinstance(event, EpochLoss))

    def stitched(self, shares: Sequence[float]) -> BlockFamily:
        """The block family that replaces the whole guide, by window size, direction and network.

        Args:
            shares: networks to choose from, 0 for a net's cheapest to 1 for its most expensive.
        """
        return block(
            self._network,
            name="stitched",
            size=Choice(self.sizes),
            direction=Choice(self.directions),
            share=Choice(tuple(shares)),
        )

    def _network(
        self, inlet: Boundary, outlet: Boundary, *, size: int, direction: str, share: float
    ) -> nn.Module:
        if (inlet, outlet) != (self.boundaries[0], self.boundaries[-1]):
            raise ShapeError("a stitched network can only replace the whole guide")
        net = self.net(size, direction)
        index = round(share * (len(net.configs()) - 1))
        parts = net.copied_parts(index)
        return StitchedNetwork(*(part for _, part in parts)).requires_grad_(True)


def _key(size: int, direction: str) -> str:
    return f"{size}-{direction}"
