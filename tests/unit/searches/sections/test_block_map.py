"""The map of parts and blocks, counted from the texts of the architectures."""

from __future__ import annotations

from nas_theseus.pictures.page import Plot, Table
from nas_theseus.searches.records import Records
from nas_theseus.searches.sections.blocks import MEMBER
from nas_theseus.values.architecture import Architecture
from tests.unit.searches.recorded import PARTS


def by_part(architecture: Architecture) -> list[str]:
    found: list[str] = []
    spans = architecture.pairing.split("|")
    for span, block in zip(spans, architecture.blocks.split("|"), strict=True):
        found += [block.split("(")[0]] * (1 + span.count("–"))
    return found


def test_every_cell_counts_the_front_and_all(finished: Records) -> None:
    pieces = MEMBER.write(finished)
    (table,) = (piece for piece in pieces if isinstance(piece, Table))
    front, every = (piece.figure.data[0] for piece in pieces if isinstance(piece, Plot))
    all_of = [by_part(one.architecture) for one in finished.evaluations]
    best = [by_part(member.evaluation.architecture) for member in finished.members]
    assert list(table.columns[1:]) == ["keep", "narrow"]
    assert [row[0] for row in table.rows] == list(PARTS)
    for part, row in enumerate(table.rows):
        for place, name in enumerate(table.columns[1:]):
            counts = [sum(one[part] == name for one in group) for group in (best, all_of)]
            assert row[1 + place] == (f"{counts[0]} / {counts[1]}" if counts[1] else "–")
            assert front.z[part][place] == counts[0] / len(best)
            assert every.z[part][place] == counts[1] / len(all_of)
