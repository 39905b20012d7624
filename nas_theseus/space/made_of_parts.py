"""Blocks made of a guide's parts, between its own boundaries or narrower ones."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nas_theseus.blocks.family import BlockFamily, Narrowing
from nas_theseus.errors import PairingError, TransformError
from nas_theseus.guide.chain import Guide, example_input
from nas_theseus.values.architecture import BlockChoice, Boundary

# The guide's channels that a boundary of a width keeps, ascending.
ChannelsKept = Callable[[int, int], Tensor]
Sides = tuple[Boundary, Boundary]
# Parts between narrower boundaries that are kept for the next block made of the same one.
_EXAMPLES = 4


class MadeOfParts:
    """Makes blocks of a guide's parts.

    Args:
        narrowing: takes channels of its boundaries away from a part; None if no block of the space
            can.
    """

    def __init__(self, guide: Guide, narrowing: Narrowing | None) -> None:
        self._guide, self._narrowing = guide, narrowing
        self._examples: dict[tuple[int, Boundary, Boundary], tuple[nn.Module, Tensor]] = {}

    def build(
        self,
        family: BlockFamily,
        choice: BlockChoice,
        sides: Sides,
        *,
        part: nn.Module | None = None,
        features: Tensor | None = None,
        channels: ChannelsKept | None = None,
    ) -> nn.Module:
        """A block between two boundaries; random weights come from torch's global generator.

        Args:
            sides: boundaries before and after the block.
            part, features, channels: as for `SearchSpace.build`.

        Raises:
            PairingError: the block cannot be made from this part, or not at these widths.
        """
        start = choice.span.start
        if part is None and features is None:
            made = self._example(start, sides)
            return family.transform(copy.deepcopy(made[0]), made[1], choice.kwargs)
        if part is None:
            part = copy.deepcopy(self._guide.parts[start]).to("cpu")
        if features is None:
            features = example_input(part, self._guide.boundaries[start], batch=2)
        part, features = self._narrowed(start, sides, part, features.cpu(), channels)
        return family.transform(part, features, choice.kwargs)

    def _example(self, start: int, sides: Sides) -> tuple[nn.Module, Tensor]:
        """A part between two boundaries and two of its inputs, of which only shapes are final."""
        case = (start, *sides)
        if case not in self._examples:
            part = copy.deepcopy(self._guide.parts[start]).to("cpu")
            features = example_input(part, self._guide.boundaries[start], batch=2)
            made = self._narrowed(start, sides, part, features, None)
            while len(self._examples) >= _EXAMPLES:
                self._examples.pop(next(iter(self._examples)))
            self._examples[case] = made
        return self._examples[case]

    def _narrowed(
        self,
        start: int,
        sides: Sides,
        part: nn.Module,
        features: Tensor,
        channels: ChannelsKept | None,
    ) -> tuple[nn.Module, Tensor]:
        """A part between two boundaries with its features there; changes the part."""
        kept = [self._kept(index, side, channels) for index, side in enumerate(sides, start=start)]
        if all(each is None for each in kept):
            return part, features
        assert self._narrowing is not None
        try:
            return self._narrowing(part, features, *kept)
        except TransformError as error:
            raise PairingError(
                f"part {self._guide.names[start]!r} cannot stand between {sides[0]} and "
                f"{sides[1]}: {error}"
            ) from error

    def _kept(self, index: int, side: Boundary, channels: ChannelsKept | None) -> Tensor | None:
        """The guide's channels that a boundary of a block keeps; None for all."""
        own = self._guide.boundaries[index]
        if side == own:
            return None
        if side.width > own.width:
            raise PairingError(
                f"a block made of a part cannot have a boundary of {side.width} channels where the "
                f"guide has {own.width}; use shares up to 1"
            )
        return torch.arange(side.width) if channels is None else channels(index, side.width)
