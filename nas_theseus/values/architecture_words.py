"""An architecture in words, for people who read lists of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from nas_theseus.values.architecture import Architecture, BlockChoice, Span

_KEEP = "keep"


def in_words(architecture: Architecture) -> str:
    """An architecture in words: ``keep stem, 2 × basic(width=0.5) for block1 to block2, …``.

    Equal neighbours of the same length are counted. Parts are called by the guide's names, or by
    their numbers from 0 where these are not known.
    """
    runs = groupby(architecture.choices, lambda choice: (str(choice), _length(choice)))
    return ", ".join(_run(list(choices)) for _, choices in runs)


def _length(choice: BlockChoice) -> int:
    """Parts of the choice's span; 0 for kept parts, all of which are counted together."""
    return 0 if choice.block == _KEEP else len(choice.span)


def _run(choices: Sequence[BlockChoice]) -> str:
    parts = _ends(choices[0].span, choices[-1].span)
    if choices[0].block == _KEEP:
        return f"{choices[0]} {parts}"
    times = f"{len(choices)} × " if len(choices) > 1 else ""
    return f"{times}{choices[0]} for {parts}"


def _ends(first: Span, last: Span) -> str:
    """The first and the last part of adjacent spans."""
    begin = first.names[0] if first.names else f"part {first.start}"
    end = last.names[-1] if last.names else f"part {last.stop - 1}"
    return begin if first.start + 1 == last.stop else f"{begin} to {end}"
