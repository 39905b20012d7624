"""How similar the blocks of each front member became to the guide's parts, over the stages."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nas_theseus.pictures.page import Cell, Link, Paragraph, Piece, Plot, Table
from nas_theseus.searches.records import Records
from nas_theseus.searches.section import Section, network_anchor
from nas_theseus.values.outcomes import Evaluation

# A page of hundreds of plots is slow to open; the table has the others.
MOST_PLOTS = 12
_LEAST = 1e-6  # drawn for a similarity of 1, which has no place on a log scale


def write(records: Records) -> Sequence[Piece]:
    """A plot for each member whose blocks were aligned in several stages, and a table of all."""
    members = [member.evaluation for member in records.members]
    aligned = [one for one in members if one.similarities]
    if not aligned:
        return [Paragraph(f"No similarity is recorded: {_reason(records)}.")]
    curves = [one for one in aligned if any(len(s) > 1 for s in one.similarities.values())]
    pieces: list[Piece] = [
        Paragraph(
            "Similarity says how near a block's outputs are to those of the parts it replaces; "
            "1 is equal. Blocks from the library were aligned once, alone, so they have one value. "
            "Candidates that align their blocks themselves have one value a stage."
        )
    ]
    pieces += [_plot(one) for one in curves[:MOST_PLOTS]]
    if len(curves) > MOST_PLOTS:
        pieces.append(Paragraph(f"Only {MOST_PLOTS} of {len(curves)} networks are drawn."))
    rows: list[list[Cell]] = []
    for one in aligned:
        name = one.architecture.id
        for position, stages in one.similarities.items():
            first, last = stages[min(stages)], stages[max(stages)]
            label = one.architecture.label(position)
            count = str(len(stages))
            row = [label, count, f"{first:.4f}", f"{last:.4f}"]
            rows.append([Link(name, network_anchor(name)), *row])
    columns = ["network", "block", "values", "first", "last"]
    return [*pieces, Table("Similarity of aligned blocks on the front", columns, rows)]


def _reason(records: Records) -> str:
    if not records.members:
        return "there is no front yet"
    return "the networks of the front have no aligned blocks"


def _plot(one: Evaluation) -> Plot:
    figure = go.Figure()
    for position, stages in one.similarities.items():
        figure.add_trace(
            go.Scatter(
                x=list(stages),
                y=[max(1 - value, _LEAST) for value in stages.values()],
                mode="lines+markers",
                name=one.architecture.label(position),
            )
        )
    figure.update_xaxes(title="stage", tickformat="d")
    figure.update_yaxes(title="1 − similarity (less is better)", type="log")
    name = one.architecture.id
    return Plot(figure, f"Similarity of the blocks of {name} over stages; see the table.", 320)


MEMBER = Section("How similar the blocks became to the guide", 90, write)
