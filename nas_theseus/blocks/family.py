"""Declaration of blocks: modules built from an inlet and an outlet shape."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nas_theseus.blocks.mixers import continued
from nas_theseus.errors import PairingError, ShapeError, TransformError
from nas_theseus.guide.sublayers import State
from nas_theseus.values.architecture import Boundary, Hyperparameter
from nas_theseus.values.style import PLAIN, Style

BlockFactory = Callable[..., nn.Module]
# Takes a part, its features, and the channels to keep of its inlet and its outlet; None for all.
Narrowing = Callable[[nn.Module, Tensor, Tensor | None, Tensor | None], tuple[nn.Module, Tensor]]


@dataclass(frozen=True)
class Choice:
    """Values of a hyperparameter that the search can choose from, best guess first."""

    values: tuple[Hyperparameter, ...]


def choice(*values: Hyperparameter) -> Choice:
    """A searched hyperparameter: ``Depthwise(expand=choice(1, 2, 4))``.

    Raises:
        ValueError: there is no value, a value occurs twice, or a value is not bool, int, float or
            str.
    """
    if not values:
        raise ValueError("choice() needs at least one value")
    if len(set(map(repr, values))) != len(values):
        raise ValueError(f"choice{values} has a value twice")
    for value in values:
        if not isinstance(value, bool | int | float | str):
            raise ValueError(f"choice() takes bool, int, float or str, not {value!r}")
    return Choice(values)


@dataclass(frozen=True)
class BlockFamily:
    """A block as a search space declares it: a factory and the values of its hyperparameters.

    Attributes:
        name: name of the block in architectures.
        factory: called as ``factory(inlet, outlet, **hyperparameters)``, or with `of_part` as
            ``factory(part, features, **hyperparameters)``; None keeps the guide's own part.
        choices: hyperparameters and their possible values, in a fixed order.
        parts: names of guide parts that it can replace; empty for all. A block that replaces a
            span must be allowed on each of its parts.
        of_part: whether it is made from the guide's own part. Such a block replaces single parts,
            and keeps the guide's widths unless a family of the space has a `narrowing`.
        preserves: whether it computes the same as the guide's part until it is trained. Such a
            block is never aligned.
        style: form of the guide's norms and hidden units, which blocks over tokens follow: their
            factories have a true attribute `styled`, and take ``style=``.
        narrowing: takes channels of its boundaries away from a part, for all families of the space
            that are made of parts: ``narrowing(part, features, inlet, outlet)`` gives the part and
            its features without them.
        at_own_widths: whether it may stand where both boundaries have the guide's widths.
        at_other_widths: whether it may stand elsewhere.
    """

    name: str
    factory: BlockFactory | None
    choices: tuple[tuple[str, tuple[Hyperparameter, ...]], ...] = ()
    parts: tuple[str, ...] = ()
    of_part: bool = False
    preserves: bool = False
    style: Style = PLAIN
    narrowing: Narrowing | None = None
    at_own_widths: bool = True
    at_other_widths: bool = True

    @property
    def styled(self) -> bool:
        """Whether the factory takes the guide's style."""
        return bool(getattr(self.factory, "styled", False))

    @property
    def keeps(self) -> bool:
        return self.factory is None

    def on(self, *parts: str) -> BlockFamily:
        """The same block, allowed on these guide parts only."""
        return replace(self, parts=parts)

    def at_guide_widths(self) -> BlockFamily:
        """The same block, between boundaries of the guide's own widths only."""
        return replace(self, at_other_widths=False)

    def variants(self) -> Iterator[tuple[tuple[str, Hyperparameter], ...]]:
        """Every combination of hyperparameters, names sorted."""
        names = [name for name, _ in self.choices]
        for values in itertools.product(*(values for _, values in self.choices)):
            yield tuple(sorted(zip(names, values, strict=True)))

    def build(
        self, inlet: Boundary, outlet: Boundary, hyperparameters: Mapping[str, Hyperparameter]
    ) -> nn.Module:
        """A new block; its random weights come from torch's global generator.

        Raises:
            PairingError: the block cannot be built for these shapes.
        """
        if self.factory is None:
            raise PairingError(f"block {self.name!r} keeps the guide's part; nothing is built")
        if self.of_part:
            raise PairingError(f"block {self.name!r} is made from a guide part, not from shapes")
        try:
            own = {"style": self.style} if self.styled else {}
            module = self.factory(inlet, outlet, **hyperparameters, **own)
        except ShapeError as error:
            raise PairingError(
                f"block {self.name!r} cannot be built from {inlet} to {outlet}: {error}"
            ) from error
        if last_map(module) is None and any(True for _ in module.parameters()):
            return Stitched(module, outlet)
        return module

    def transform(
        self, part: nn.Module, features: Tensor, hyperparameters: Mapping[str, Hyperparameter]
    ) -> nn.Module:
        """A block made from a guide part; random weights come from torch's global generator.

        Args:
            part: a copy of the part, which the block may change.
            features: inputs of the part, shape (N, *inlet).

        Raises:
            PairingError: the block cannot be made from this part.
        """
        assert self.factory is not None and self.of_part
        try:
            return self.factory(part, features, **hyperparameters)
        except TransformError as error:
            raise PairingError(
                f"block {self.name!r} cannot be made from this part: {error}"
            ) from error

    def refusal(self, inlet: Boundary, outlet: Boundary) -> str | None:
        """Why the block cannot be built between two boundaries; None if it can."""
        try:
            with torch.device("meta"):
                self.build(inlet, outlet, dict(next(self.variants())))
        except PairingError as error:
            return str(error)
        except Exception as error:  # a custom block that does not support such shapes
            return (
                f"block {self.name!r} cannot be built from {inlet} to {outlet}: "
                f"{type(error).__name__}: {error}"
            )
        return None


def block(factory: BlockFactory, name: str | None = None, **hyperparameters: Any) -> BlockFamily:
    """Declare any module as a block: its constructor takes inlet and outlet, then hyperparameters.

    Args:
        factory: ``nn.Module`` class (or function) called as ``factory(inlet, outlet, **values)``
            with two `Boundary` values; it raises `ShapeError` for shapes that it does not support.
            If it has an attribute `last`, the ``nn.Linear`` or ``nn.Conv2d`` whose output is the
            block's output (plus, at most, a skip), the stitch into the guide's basis is folded into
            `last`. Otherwise a linear stitch is added after the block and counted in its cost.
        name: name of the block in architectures. Default: the factory's name in lower case.
        hyperparameters: a fixed value or a `choice` for each.
    """
    choices = tuple(
        (key, value.values if isinstance(value, Choice) else (value,))
        for key, value in sorted(hyperparameters.items())
    )
    return BlockFamily(name or factory.__name__.lower(), factory, choices)


def Keep() -> BlockFamily:
    """Keep the guide's own part; for single parts only."""
    return BlockFamily("keep", None, of_part=True, preserves=True)


class Stitched(nn.Module):
    """A block that has no linear map at its end, followed by one per position."""

    def __init__(self, inner: nn.Module, outlet: Boundary) -> None:
        super().__init__()
        self.inner = inner
        width = outlet.width
        self.last = nn.Conv2d(width, width, 1) if outlet.kind == "map" else nn.Linear(width, width)
        with torch.no_grad():
            self.last.weight.copy_(torch.eye(width).reshape(self.last.weight.shape))
            nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        out: Tensor = self.last(continued(self.inner, x, state))
        return out

    @property
    def state_elements(self) -> Callable[[int], int]:
        """The inner block's own method; the attribute is missing if it has none."""
        found: Callable[[int], int] = self.inner.state_elements  # type: ignore[assignment]
        return found


def last_map(module: nn.Module) -> nn.Linear | nn.Conv2d | None:
    """The linear map at a block's end, into which a stitch can be folded; None if there is none."""
    last = getattr(module, "last", None)
    if isinstance(last, nn.Linear):
        return last
    if isinstance(last, nn.Conv2d) and last.groups == 1:
        return last
    return None


def downsampling(inlet: Boundary, outlet: Boundary) -> int:
    """The stride of a feature-map block: inlet height over outlet height, equal in both axes.

    Raises:
        ShapeError: a side is not a map, or the sizes need a stride that is not whole.
    """
    if inlet.kind != "map" or outlet.kind != "map":
        raise ShapeError(f"needs (C,H,W) on both sides, got {inlet} and {outlet}")
    _, height, width = inlet.shape
    _, height_out, width_out = outlet.shape
    stride = height // height_out if height_out else 0
    if stride < 1 or height_out * stride != height or width_out * stride != width:
        raise ShapeError(
            f"needs a whole stride, but {height}×{width} is not a multiple of "
            f"{height_out}×{width_out}; pad the inputs or cut elsewhere"
        )
    return stride


def scaled_width(width: int, factor: float) -> int:
    """A hidden width: `factor` times `width`, at least 1."""
    return max(1, round(width * factor))


def layer_norm(width: int) -> nn.Module:
    """Layer norm; the identity for a single channel, which a norm would make constant."""
    return nn.LayerNorm(width) if width > 1 else nn.Identity()
