"""Which blocks a space leaves out of which parts, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nas_theseus.blocks import BlockFamily
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Span

_PLACES_SHOWN = 6
_NUMBERS = re.compile(r"\d+")
_PREFIX = re.compile(r"^(part '[^']*': )?block '[^']*' cannot be (built from .*?|made from .*?): ")
REMEDY = (
    "A block is not proposed where it is left out. Where that is meant, name its parts with "
    "block.on(…), and nothing is reported"
)


@dataclass(frozen=True)
class LeftOut:
    """Blocks that the same reason keeps from the same places.

    Attributes:
        blocks: names of the blocks.
        everywhere: whether the blocks fit nowhere else in the space.
        places: guide parts, spans of parts, or boundaries with a width.
        reason: why, and what to do; with the shapes of the first place.
    """

    blocks: tuple[str, ...]
    everywhere: bool
    places: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        named = f"{'blocks' if len(self.blocks) > 1 else 'block'} {', '.join(self.blocks)}"
        if self.everywhere and len(self.places) > 1:
            return f"{named} fit{'' if len(self.blocks) > 1 else 's'} nowhere: {self.reason}"
        shown = ", ".join(self.places[:_PLACES_SHOWN])
        if (more := len(self.places) - _PLACES_SHOWN) > 0:
            shown += f" and {more} more"
        parts = "parts" if len(self.places) > 1 else "part"
        return f"{named} left out of {parts} {shown}: {self.reason}"


def left_out(space: SearchSpace) -> list[str]:
    """One line for each group of blocks and each reason; empty if every block fits everywhere.

    Only places that the space allows a block are looked at: not those that `keep` or
    ``block.on(…)`` exclude, nor spans of several parts for a block that is made from one part.
    """
    groups: dict[tuple[str, bool, tuple[str, ...]], tuple[list[str], str]] = {}
    for family in space.blocks:
        if family.keeps:
            continue
        everywhere = not any(family.name in fits for fits in space.fitting.values())
        for kind, (reason, places) in _by_reason(space, family).items():
            names, _ = groups.setdefault((kind, everywhere, tuple(places)), ([], reason))
            names.append(family.name)
    found = [
        str(LeftOut(tuple(names), everywhere, places, reason))
        for (_, everywhere, places), (names, reason) in groups.items()
    ]
    return [*found, REMEDY] if found else []


def _by_reason(space: SearchSpace, family: BlockFamily) -> dict[str, tuple[str, list[str]]]:
    """Places that refuse a block, by the kind of reason: the first reason in full, and all places.

    Reasons that differ in numbers alone are of one kind.
    """
    refused = {
        span: reason for span in _allowed(space, family) if (reason := _why(space, family, span))
    }
    found: dict[str, tuple[str, list[str]]] = {}
    for place, reason in [
        *_places(list(_allowed(space, family)), refused),
        *_narrow_places(space, family),
    ]:
        kind = _NUMBERS.sub("#", reason)
        found.setdefault(kind, (reason, []))[1].append(place)
    return found


def _allowed(space: SearchSpace, family: BlockFamily) -> Iterator[Span]:
    for span in space.spans():
        meant = not family.parts or set(span.names) <= set(family.parts)
        single = len(span) == 1 or not family.of_part
        if meant and single and not set(span.names) & set(space.keep):
            yield span


def _why(space: SearchSpace, family: BlockFamily, span: Span) -> str | None:
    """Why a block fits a span at no width; None if it fits at one, or no block leads there."""
    shares = [share for (fitted, share), _ in space.fitting.items() if fitted == span]
    if any(family.name in space.fitting[span, share] for share in shares):
        return None
    refusals = space.refusals.get((family.name, span), {})
    return next((_short(reason) for reason in refusals.values()), None)


def _places(allowed: Sequence[Span], refused: dict[Span, str]) -> Iterator[tuple[str, str]]:
    """Parts of which no span fits; and the spans that are refused though each part has one."""
    parts = sorted({part for span in allowed for part in range(span.start, span.stop)})
    hopeless = {
        part
        for part in parts
        if all(span in refused for span in allowed if span.start <= part < span.stop)
    }
    names = {
        part: name
        for span in allowed
        for part, name in zip(range(span.start, span.stop), span.names, strict=True)
    }
    for part in sorted(hopeless):
        around = [span for span in allowed if span.start <= part < span.stop]
        yield names[part], refused[min(around, key=len)]
    for span, reason in refused.items():
        if not hopeless & {*range(span.start, span.stop)}:
            yield str(span), reason


def _narrow_places(space: SearchSpace, family: BlockFamily) -> Iterator[tuple[str, str]]:
    """Spans that a block fits at some of the widths only."""
    for span in _allowed(space, family):
        if family.of_part or _why(space, family, span) is not None:
            continue
        for (inlet, outlet), reason in space.refusals.get((family.name, span), {}).items():
            before = space.boundary(span.start, inlet).width
            after = space.boundary(span.stop, outlet).width
            yield f"{span} (width {before} to {after})", _short(reason)


def _short(reason: str) -> str:
    """A refusal without the block and the shapes, which the line names already."""
    return _PREFIX.sub("", reason)
