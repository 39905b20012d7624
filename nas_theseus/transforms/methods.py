"""The methods of widening and deepening, and their properties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nas_theseus.errors import TransformError

Preserved = Literal["exactly", "exactly without batch norm", "no"]


@dataclass(frozen=True)
class Method:
    """Properties of every method; the columns of the properties table.

    Attributes:
        name: name of the method for `widen` and `deepen`.
        preserved_eval: whether the student computes the teacher's outputs in eval mode.
        preserved_train: the same in train mode, with batch statistics and without dropout.
        keeps_parameters: whether every parameter of the teacher keeps its value in the student.
        needs_noise: whether new channels stay equal to each other without noise.
        activations: requirements on activation functions, besides acting on each channel alone.
        widths: numbers of channels that can be added.
        residual: whether the volume, or the new layers, can be part of a residual connection.
        trains_at_once: new parameters that get a gradient at the first step.
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
    """A method of widening: how new channels are written and read.

    Attributes:
        writes: new filters are free, equal free ones in pairs, copies of existing ones, or zero.
        reads: new columns cancel in pairs, are zero, share the copied column's weight, or are free.
    """

    writes: Literal["free", "paired", "copied", "zero"]
    reads: Literal["free", "cancelling", "shared", "zero"]


@dataclass(frozen=True)
class Deepening(Method):
    """A method of deepening; its `widths` are "–", since no width changes."""


WIDENINGS = {
    method.name: method
    for method in (
        Widening(
            "r2wider",
            "exactly",
            "exactly",
            True,
            False,
            "any",
            "even",
            "yes",
            "all",
            "paired",
            "cancelling",
        ),
        Widening(
            "net2wider",
            "exactly",
            "exactly",
            False,
            True,
            "any",
            "any",
            "no",
            "all",
            "copied",
            "shared",
        ),
        Widening(
            "netmorph",
            "exactly",
            "exactly",
            True,
            False,
            "any",
            "any",
            "yes",
            "reading",
            "free",
            "zero",
        ),
        Widening(
            "netmorph-reverse",
            "exactly",
            "exactly",
            True,
            False,
            "σ(0) = 0",
            "any",
            "yes",
            "writing",
            "zero",
            "free",
        ),
        Widening("random-pad", "no", "no", True, False, "any", "any", "yes", "all", "free", "free"),
    )
}

DEEPENINGS = {
    method.name: method
    for method in (
        Deepening(
            "r2deeper",
            "exactly",
            "exactly",
            True,
            False,
            "σ(0) = 0 behind the last layer",
            "–",
            "needed",
            "last two layers",
        ),
        Deepening(
            "zero",
            "exactly",
            "exactly",
            True,
            False,
            "σ(0) = 0 behind the last layer",
            "–",
            "needed",
            "last layer",
        ),
        Deepening(
            "net2deeper",
            "exactly",
            "exactly without batch norm",
            True,
            False,
            "idempotent",
            "–",
            "yes",
            "all",
        ),
        Deepening("random-pad", "no", "no", True, False, "any", "–", "needed", "all"),
    )
}


def widening(name: str) -> Widening:
    """A method of widening by name.

    Raises:
        TransformError: no method has this name.
    """
    if name not in WIDENINGS:
        raise TransformError(f"unknown widening method {name!r}; available: {', '.join(WIDENINGS)}")
    return WIDENINGS[name]


def deepening(name: str) -> Deepening:
    """A method of deepening by name.

    Raises:
        TransformError: no method has this name.
    """
    if name not in DEEPENINGS:
        raise TransformError(
            f"unknown deepening method {name!r}; available: {', '.join(DEEPENINGS)}"
        )
    return DEEPENINGS[name]
