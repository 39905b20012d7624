"""The partly converted network: new blocks that have replaced guide parts, within the guide."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from torch import Tensor, nn

from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.target import Target


class Hybrid(nn.Module):
    """The guide with some of its parts replaced by a target's blocks.

    Only those blocks are trained and count as parameters; the guide's parts never change. If a new
    block's width is not the guide's, activations pass through the projection that defines the
    block's basis (`projection`).

    Source: Network of Theseus, arXiv:2512.04198, figure 4.
    """

    def __init__(
        self, target: Target, activations: GuideActivations, replaced: Collection[int]
    ) -> None:
        super().__init__()
        self.target = target
        self._replaced = frozenset(replaced)
        # Blocks without parameters replace their parts from the start.
        bare = {p for p, same in enumerate(target.preserving) if not same} - set(target.replaced)
        self._new = self._replaced | bare
        self._activations = [activations]  # in a list, so that the guide is not a submodule
        target.freeze_all_but(self._replaced)

    def forward(self, inputs: Tensor) -> Tensor:
        features = inputs
        for link in self.links():
            features = link(features)
        return features

    def links(self) -> list[Callable[[Tensor], Tensor]]:
        """What runs at each position of the target, in order: its block or the guide's parts."""
        return [partial(self._run, position) for position in range(len(self.target.blocks))]

    def _run(self, position: int, features: Tensor) -> Tensor:
        (activations,) = self._activations
        guide = activations.guide
        start = self.target.inlet_boundary(position)
        stop = self.target.outlet_boundary(position)
        new = position in self._new
        wanted = self.target.boundaries[position].width if new else guide.boundaries[start].width
        features = self._at_width(features, start, wanted)
        for module in [self.target.blocks[position]] if new else guide.parts[start:stop]:
            features = module(features)
        return features

    def _at_width(self, features: Tensor, boundary: int, width: int) -> Tensor:
        (activations,) = self._activations
        own = activations.guide.boundaries[boundary]
        given = features.shape[1 if own.kind == "map" else -1]
        if own.kind == "ids" or given == width:
            return features
        if given == own.width:
            return activations.projection(boundary, width).to_target(features)
        return activations.projection(boundary, given).to_guide(features)
