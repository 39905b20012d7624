"""The chain of each front member: which block stands for which parts of the guide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nas_theseus.pictures.page import Box, Chain, Heading, Paragraph, Piece
from nas_theseus.searches.figures import number
from nas_theseus.searches.records import KEEP, Records
from nas_theseus.searches.section import Section, network_anchor
from nas_theseus.values.outcomes import Evaluation, FrontMember


def write(records: Records) -> Sequence[Piece]:
    """One chain a member."""
    if not records.members:
        return [Paragraph("There is no front yet.")]
    pieces: list[Piece] = [
        Paragraph(
            "From inlet to outlet. Below each block stand the parts of the guide that it replaces, "
            "and how similar its outputs became to theirs (1 is equal), where it was aligned. Kept "
            "parts of the guide have a dashed border."
        )
    ]
    for member in records.members:
        one = member.evaluation
        name = one.architecture.id
        pieces.append(Heading(name, network_anchor(name)))
        pieces.append(Paragraph(_values(member)))
        pieces.append(Chain(f"Blocks of {name}", list(_boxes(one))))
    return pieces


def _values(member: FrontMember) -> str:
    values = {**member.evaluation.values(), **member.test}
    return ", ".join(f"{name} {number(value)}" for name, value in values.items()) + "."


def _boxes(evaluation: Evaluation) -> Iterator[Box]:
    similar = {
        position: stages[max(stages)]
        for position, stages in evaluation.similarities.items()
        if stages
    }
    for position, choice in enumerate(evaluation.architecture.choices):
        under = choice.span.text
        if position in similar:
            under += f"; similarity {similar[position]:.3f}"
        yield Box(str(choice), under, len(choice.span), choice.block == KEEP)


MEMBER = Section("The networks of the front, block by block", 80, write)
