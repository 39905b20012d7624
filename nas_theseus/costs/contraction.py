"""Multiply-adds of an einsum, contracted pair by pair as torch does it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nas_theseus.errors import CostError

Axes = dict[str, int]
"""Size of each axis of one operand, by letter; axes of size 1 broadcast, so they are left out."""


def _letters(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """Operands' and output's axes as letters; the axes of an ellipsis are ``...0``, ``...1``, …

    Raises:
        CostError: an operand's letters do not match its rank.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    operands: list[list[str]] = []
    widest = 0
    for term, rank in zip(left.split(","), ranks, strict=True):
        before, dots, after = term.partition("...")
        hidden = rank - len(before) - len(after)
        if hidden < 0 or (hidden and not dots):
            raise CostError(
                f"aten::einsum: {equation!r} has the term {term!r} for an operand of rank {rank}"
            )
        widest = max(widest, hidden)
        # Ellipses are aligned at their last axis.
        operands.append([*before, *(f"...{axis}" for axis in range(-hidden, 0)), *after])
    ellipsis = [f"...{axis}" for axis in range(-widest, 0)]
    if not arrow:
        flat = [letter for operand in operands for letter in operand]
        return operands, [*ellipsis, *sorted({x for x in flat if flat.count(x) == 1})]
    before, dots, after = right.partition("...")
    return operands, [*before, *(ellipsis if dots else ()), *after]


def _pair_macs(first: Axes, second: Axes, kept: set[str]) -> tuple[int, Axes]:
    """Multiply-adds of one pairwise contraction and the axes that remain.

    An axis of only one operand that is not needed later is summed first. Without a contracted axis
    the pair is an element-wise product, which counts 0.
    """
    # Torch sums axes of a single operand before multiplying, so they do not multiply the work.
    first = {axis: size for axis, size in first.items() if axis in second or axis in kept}
    second = {axis: size for axis, size in second.items() if axis in first or axis in kept}
    union = first | second
    result = {axis: size for axis, size in union.items() if axis in kept}
    return (math.prod(union.values()) if len(result) < len(union) else 0), result


def einsum_macs(
    equation: str, shapes: Sequence[Sequence[int]], path: Sequence[int] | None = None
) -> int:
    """Multiply-adds of ``torch.einsum(equation, ...)`` on operands of these shapes.

    Args:
        equation: as for torch; may have spaces, ellipses and an implicit output.
        shapes: one shape per operand.
        path: flat pairs of operand positions as torch records them. Default: left to right.

    Raises:
        CostError: the equation does not fit the shapes.
    """
    terms, output = _letters(equation, [len(shape) for shape in shapes])
    operands: list[Axes] = [
        {axis: size for axis, size in zip(term, shape, strict=True) if size > 1}
        for term, shape in zip(terms, shapes, strict=True)
    ]
    pairs = list(zip(path[::2], path[1::2], strict=True)) if path else []
    macs = 0
    while len(operands) > 1:
        # With a path torch puts each result last; from left to right it puts it first.
        positions = pairs.pop(0) if pairs else (0, 1)
        second, first = (operands.pop(index) for index in sorted(positions, reverse=True))
        kept = set(output).union(*operands)
        pair_macs, result = _pair_macs(first, second, kept)
        macs += pair_macs
        operands.insert(len(operands) if path else 0, result)
    return macs
