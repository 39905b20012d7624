"""How well the rungs predicted final quality."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nas_theseus.estimate.rungs import MIN_FOR_TAU, MIN_TAU, RungRecord
from nas_theseus.pictures.page import Paragraph, Piece, Plot, Table
from nas_theseus.searches.figures import number
from nas_theseus.searches.records import Records
from nas_theseus.searches.section import Section


def record_of(records: Records) -> RungRecord:
    """The candidates that finished, at the rungs of the search."""
    record = RungRecord(records.rungs, records.goals, records.begun.constraints)
    for evaluation in records.evaluations:
        record.take(evaluation, finished=True)
    return record


def write(records: Records) -> Sequence[Piece]:
    """A table of Kendall's τ, and the qualities that it compares."""
    if not records.rungs:
        return [Paragraph("Candidates of this search are not compared before they finish.")]
    record = record_of(records)
    found = record.correlations()
    metric = records.rungs[0].metric
    pieces: list[Piece] = [
        Paragraph(
            "Kendall's τ says how well a rung's order of candidates agrees with their order at the "
            "end: 1 is the same order, 0 is chance. A rung stops candidates only from "
            f"{MIN_TAU:g} on, which is three of four pairs in the right order, and once "
            f"{MIN_FOR_TAU} have finished. It is computed among those that finished, so it is "
            "too low rather than too high."
        ),
        Table(
            f"Kendall's τ with final {metric}, over {record.finished} finished candidates",
            ["rung", "τ", "trusted"],
            [[rung.name, *_tau(found.get(rung.name))] for rung in records.rungs],
        ),
    ]
    compared = [
        one for one in records.evaluations if any(r.quality(one) is not None for r in records.rungs)
    ]
    if not compared:
        return pieces
    figure = go.Figure()
    for rung in records.rungs:
        there = [(rung.quality(one), one.value(metric)) for one in compared]
        figure.add_trace(
            go.Scatter(
                x=[at for at, _ in there],
                y=[end for _, end in there],
                mode="markers",
                name=rung.name,
            )
        )
    figure.update_xaxes(title=f"{metric} at the rung")
    figure.update_yaxes(title=f"{metric} at the end")
    rows = [
        [
            one.architecture.id,
            *(number(rung.quality(one)) for rung in records.rungs),
            number(one.value(metric)),
        ]
        for one in compared
    ]
    names = [rung.name for rung in records.rungs]
    caption = f"{metric} of each finished candidate at the rungs and at the end"
    return [
        *pieces,
        Plot(figure, f"{caption}; numbers in the table."),
        Table(caption, ["network", *names, "end"], rows),
    ]


def _tau(tau: float | None) -> tuple[str, str]:
    if tau is None:
        return "–", "too few finished candidates, or all are equal"
    return f"{tau:.2f}", "yes" if tau >= MIN_TAU else "no"


MEMBER = Section("How well early results predicted the end", 60, write)
