"""Select the boundaries of two anchors to stitch, and those that share one stitch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from nas_theseus.errors import ShapeError
from nas_theseus.values.architecture import Boundary


@dataclass(frozen=True)
class Window:
    """Consecutive boundaries of equal shape in two anchors, which share one stitch.

    Attributes:
        pairs: pairs (front's boundary, back's boundary) to stitch.
    """

    pairs: tuple[tuple[int, int], ...]


def stages(boundaries: Sequence[Boundary]) -> list[range]:
    """Runs of inner boundaries of equal shape: the stages of a network, including its stem's."""
    inner = range(1, len(boundaries) - 1)
    runs = (list(run) for _, run in groupby(inner, key=lambda index: boundaries[index]))
    return [range(run[0], run[-1] + 1) for run in runs]


def equal_scale(one: Boundary, other: Boundary) -> bool:
    """Whether two boundaries have equally many positions, apart from a class token."""
    if "ids" in (one.kind, other.kind):
        return False
    if one.kind == other.kind:
        same = slice(1, None) if one.kind == "map" else slice(0, -1)
        return one.shape[same] == other.shape[same]
    if {one.kind, other.kind} == {"map", "tokens"}:
        grid, tokens = (one, other) if one.kind == "map" else (other, one)
        return tokens.shape[0] - math.prod(grid.shape[1:]) in (0, 1)
    return False


def sliding_windows(
    front: Sequence[Boundary], back: Sequence[Boundary], size: int, stride: int
) -> list[Window]:
    """Windows over the stages of two anchors that have equally many positions.

    In each stage a window of `size` boundaries moves by `stride` over the shallower anchor. Each of
    the deeper anchor's boundaries belongs to the nearest of the shallower's; at equal depth they
    are paired one to one. A window stitches each of its front boundaries to each of its back
    boundaries, except pairs of an earlier window; a window without new pairs is left out. A window
    ends where its stage ends.

    Raises:
        ShapeError: the size or stride is below 1, the window is larger than every stage, or no
            stage of one anchor has as many positions as one of the other.

    Source: Pan et al. 2023, section 3 and figure 5. Ours: windows larger than 1 for different
    depths, and stages derived from shapes.
    """
    if size < 1 or stride < 1:
        raise ShapeError(
            f"sliding windows need a size and a stride of 1 or more, not {size}, {stride}"
        )
    alike = [
        (a, b)
        for a in stages(front)
        for b in stages(back)
        if equal_scale(front[a.start], back[b.start])
    ]
    if not alike:
        raise ShapeError(
            f"no stage of one anchor ({_described(front)}) has as many positions as one of the "
            f"other ({_described(back)}): use anchors of one family, or cut them where their maps "
            "are equal"
        )
    deepest = max(min(len(a), len(b)) for a, b in alike)
    if size > deepest:
        raise ShapeError(
            f"windows of size {size} do not fit: the anchors' stages have at most {deepest} "
            f"boundaries to share ({_described(front)}; {_described(back)}); use a size of 1 to "
            f"{deepest}"
        )
    return [window for a, b in alike for window in _stage_windows(a, b, size, stride)]


def _stage_windows(front: range, back: range, size: int, stride: int) -> Iterator[Window]:
    depth = min(len(front), len(back))
    seen: set[tuple[int, int]] = set()
    for start in range(0, depth, stride):
        inside = range(start, min(start + size, depth))
        pairs = tuple(
            pair
            for i, p in enumerate(front)
            for j, q in enumerate(back)
            if i * depth // len(front) in inside
            and j * depth // len(back) in inside
            and (pair := (p, q)) not in seen
        )
        seen.update(pairs)
        if pairs:
            yield Window(pairs)
        if inside.stop == depth:
            return


def _described(boundaries: Sequence[Boundary]) -> str:
    return ", ".join(f"{len(run)}× {boundaries[run.start]}" for run in stages(boundaries))
