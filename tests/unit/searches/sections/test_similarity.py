"""Similarity curves: one plot for each network that aligned in stages, every value in the table."""

from __future__ import annotations

from dataclasses import replace

from nas_theseus.pictures.page import Link, Paragraph, Plot, Table
from nas_theseus.searches.records import Records
from nas_theseus.searches.sections.similarity import MEMBER, MOST_PLOTS
from nas_theseus.values.outcomes import CurvePoint, FrontMember


def aligned(records: Records, values: dict[int, list[float]], times: int = 1) -> Records:
    """The records with a front whose members were aligned so, by position and stage."""
    points = tuple(
        CurvePoint(f"similarity/{position}", stage, value)
        for position, stages in values.items()
        for stage, value in enumerate(stages)
    )
    one = replace(records.members[0].evaluation, curve=points)
    return replace(records, members=(FrontMember(one, {}),) * times)


def test_a_network_that_aligned_in_stages_has_a_plot(finished: Records) -> None:
    values = {0: [0.5, 0.75, 1.0], 1: [0.25]}
    records = aligned(finished, values)
    _, plot, table = MEMBER.write(records)
    assert isinstance(plot, Plot) and isinstance(table, Table)
    first, second = plot.figure.data
    assert list(first.x) == [0, 1, 2] and list(first.y) == [0.5, 0.25, 1e-6]
    assert list(second.y) == [0.75]
    labels = [records.members[0].evaluation.architecture.label(n) for n in (0, 1)]
    assert [row[1:] for row in table.rows] == [
        [labels[0], "3", "0.5000", "1.0000"],
        [labels[1], "1", "0.2500", "0.2500"],
    ]
    assert all(isinstance(row[0], Link) for row in table.rows)


def test_blocks_of_the_library_have_one_value_and_no_plot(finished: Records) -> None:
    pieces = MEMBER.write(finished)
    assert not [piece for piece in pieces if isinstance(piece, Plot)]
    (table,) = (piece for piece in pieces if isinstance(piece, Table))
    assert {row[2] for row in table.rows} == {"1"}


def test_many_networks_are_not_all_drawn(finished: Records) -> None:
    pieces = MEMBER.write(aligned(finished, {0: [0.1, 0.2]}, MOST_PLOTS + 1))
    assert sum(isinstance(piece, Plot) for piece in pieces) == MOST_PLOTS
    assert any("Only 12 of 13" in p.text for p in pieces if isinstance(p, Paragraph))
    assert isinstance(pieces[-1], Table) and len(pieces[-1].rows) == MOST_PLOTS + 1


def test_what_is_missing_is_said(empty: Records, finished: Records) -> None:
    (said,) = MEMBER.write(empty)
    assert isinstance(said, Paragraph) and "there is no front yet" in said.text
    (said,) = MEMBER.write(aligned(finished, {}))
    assert isinstance(said, Paragraph) and "have no aligned blocks" in said.text
