"""Architectures in words: runs are counted, every part is named or numbered."""

from __future__ import annotations

from nas_theseus.values.architecture import Architecture, BlockChoice, Span, span_of
from nas_theseus.values.architecture_words import in_words

NAMES = ("stem", "one", "two", "three", "four", "head")


def choice(start: int, stop: int, block: str, named: bool = True, **options: int) -> BlockChoice:
    span = span_of(start, stop, NAMES) if named else Span(start, stop)
    return BlockChoice(span, block, tuple(sorted(options.items())))


def test_equal_neighbours_are_counted() -> None:
    found = Architecture(
        (
            choice(0, 1, "keep"),
            choice(1, 2, "basic", width=2),
            choice(2, 3, "basic", width=2),
            choice(3, 4, "basic", width=1),
            choice(4, 5, "keep"),
            choice(5, 6, "keep"),
        )
    )
    assert in_words(found) == (
        "keep stem, 2 × basic(width=2) for one to two, basic(width=1) for three, keep four to head"
    )


def test_one_block_for_two_parts_is_not_two_blocks() -> None:
    found = Architecture(
        (choice(0, 2, "linear"), choice(2, 4, "linear"), choice(4, 5, "linear"), choice(5, 6, "x"))
    )
    assert in_words(found) == "2 × linear for stem to three, linear for four, x for head"


def test_parts_without_names_have_numbers_from_0() -> None:
    found = Architecture(
        (choice(0, 1, "keep", named=False), choice(1, 3, "linear", named=False, rank=4))
    )
    assert in_words(found) == "keep part 0, linear(rank=4) for part 1 to part 2"
