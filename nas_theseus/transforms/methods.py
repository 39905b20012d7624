"""The methods of widening and deepening: what each draws, copies, cancels and promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nas_theseus.errors import TransformError

Preserved = Literal["exactly", "exactly without batch norm", "no"]


@dataclass(frozen=True)
class Method:
    """What is told of every method; the columns of the properties table.

    Attributes:
        name: what `widen` and `deepen` call it.
        preserved_eval: whether the student computes what the teacher computes, in eval mode.
        preserved_train: the same in train mode, batch norms by batch statistics and no dropout.
        keeps_parameters: every parameter of the teacher keeps its value in the student.
        needs_noise: new channels would stay equal to each other for ever.
        activations: what the method asks of activation functions, beyond acting on each channel
            alone.
        widths: how many channels can be added.
        residual: whether the volume, or the new layers, may be part of a residual connection.
        trains_at_once: which new parameters get a gradient at the first step.
    """

    name: str
    preserved_eval: Preserved
    preserved_train: Preserved
    keeps_parameters: bool
    needs_noise: bool
    activations: str
    widths: Literal["any", "even", "–"]
    residual: Literal["yes", "no", "needed"]
    trains_at_once: str


@dataclass(frozen=True)
class Widening(Method):
    """How new channels are written and read.

    Attributes:
        writes: new filters are free, a pair of equal free ones, copies of existing ones, or zero.
        reads: new columns cancel within a pair, are zero, share the copied one's, or are free.
    """

    writes: Literal["free", "paired", "copied", "zero"]
    reads: Literal["free", "cancelling", "shared", "zero"]


@dataclass(frozen=True)
class Deepening(Method):
    """How new layers are started; `–` widths, since none change."""


WIDENINGS = {
    method.name: method
    for method in (
        Widening(
            "r2wider", "exactly", "exactly", True, False, "any", "even", "yes", "all",
            "paired", "cancelling",
        ),
        Widening(
            "net2wider", "exactly", "exactly", False, True, "any", "any", "no", "all",
            "copied", "shared",
        ),
        Widening(
            "netmorph", "exactly", "exactly", True, False, "any", "any", "yes", "reading",
            "free", "zero",
        ),
        Widening(
            "netmorph-reverse", "exactly", "exactly", True, False, "σ(0) = 0", "any", "yes",
            "writing", "zero", "free",
        ),
        Widening(
            "random-pad", "no", "no", True, False, "any", "any", "yes", "all", "free", "free"
        ),
    )
}  # fmt: skip

DEEPENINGS = {
    method.name: method
    for method in (
        Deepening(
            "r2deeper", "exactly", "exactly", True, False, "σ(0) = 0 behind the last layer", "–",
            "needed", "last two layers",
        ),
        Deepening(
            "zero", "exactly", "exactly", True, False, "σ(0) = 0 behind the last layer", "–",
            "needed", "last layer",
        ),
        Deepening(
            "net2deeper", "exactly", "exactly without batch norm", True, False, "idempotent", "–",
            "yes", "all",
        ),
        Deepening("random-pad", "no", "no", True, False, "any", "–", "needed", "all"),
    )
}  # fmt: skip


def widening(name: str) -> Widening:
    """A method of widening by name.

    Raises:
        TransformError: no method has this name.
    """
    if name not in WIDENINGS:
        raise TransformError(f"no method of widening is {name!r}; there are {', '.join(WIDENINGS)}")
    return WIDENINGS[name]


def deepening(name: str) -> Deepening:
    """A method of deepening by name.

    Raises:
        TransformError: no method has this name.
    """
    if name not in DEEPENINGS:
        raise TransformError(
            f"no method of deepening is {name!r}; there are {', '.join(DEEPENINGS)}"
        )
    return DEEPENINGS[name]
