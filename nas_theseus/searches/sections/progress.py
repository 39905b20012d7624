"""Hypervolume of the front over time and over compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nas_theseus.estimate.pareto import IncrementalFront, hypervolume_of
from nas_theseus.pictures.page import Paragraph, Piece, Plot, Table
from nas_theseus.searches.figures import duration, number, short_count
from nas_theseus.searches.records import Records
from nas_theseus.searches.section import Section
from nas_theseus.values.outcomes import BlockOutcome, Evaluation, Stopped


@dataclass(frozen=True)
class Moment:
    """The search when one more candidate had finished.

    Attributes:
        macs: multiply-adds of all candidates and blocks so far.
        elapsed_s: seconds since the search began, pauses included.
    """

    evaluation: Evaluation
    elapsed_s: float
    macs: int
    front: int
    hypervolume: float


def moments(records: Records) -> list[Moment]:
    """The search's progress, one moment for each candidate that finished."""
    front = IncrementalFront(records.goals, records.begun.constraints)
    results = [*records.blocks, *records.outcomes]
    found, macs = [], 0
    for one in sorted(results, key=records.folder.saved_at):  # stable: blocks before candidates
        if isinstance(one, BlockOutcome):
            macs += one.macs
        elif isinstance(one, Stopped):
            macs += one.evaluation.train_macs_spent
        elif isinstance(one, Evaluation):
            macs += one.train_macs_spent
            front.add(one)
            members = front.members
            volume = hypervolume_of(members, records.goals, records.reference) if members else 0.0
            found.append(Moment(one, records.elapsed(one), macs, len(members), volume))
    return found


def write(records: Records) -> Sequence[Piece]:
    """Two plots and one table."""
    found = moments(records)
    if not found:
        return [Paragraph("No candidate has finished yet.")]
    reference = ", ".join(f"{name} {number(value)}" for name, value in records.reference.items())
    whose = "the search's own" if records.basis else "the worst values of this search"
    last = found[-1]
    pieces: list[Piece] = [
        Paragraph(
            "Hypervolume is one number for a whole front: the volume that it dominates up to a "
            f"reference point. More is better. The reference is {whose}: {reference}. "
            f"After {duration(last.elapsed_s)} and {short_count(last.macs)} multiply-adds (MACs) "
            f"of training it is {last.hypervolume:.4f}."
        )
    ]
    hours = last.elapsed_s >= 7200
    time = ("hours", 3600.0) if hours else ("seconds", 1.0)
    for name, values in (
        (f"{time[0]} since the search began", [one.elapsed_s / time[1] for one in found]),
        ("multiply-adds of training", [one.macs for one in found]),
    ):
        figure = go.Figure(
            go.Scatter(
                x=values,
                y=[one.hypervolume for one in found],
                line={"shape": "hv", "color": "#c2410c"},
                mode="lines+markers",
            )
        )
        figure.update_xaxes(title=name)
        figure.update_yaxes(title="hypervolume")
        pieces.append(Plot(figure, f"Hypervolume over {name}; numbers in the table.", 300))
    pieces.append(
        Table(
            "Progress",
            ["finished", "network", "time", "training MACs", "size of front", "hypervolume"],
            [
                [
                    str(count),
                    one.evaluation.architecture.id,
                    duration(one.elapsed_s),
                    short_count(one.macs),
                    str(one.front),
                    f"{one.hypervolume:.4f}",
                ]
                for count, one in enumerate(found, 1)
            ],
        )
    )
    pieces.append(
        Paragraph(
            "Times are those of the results' files, pauses included. MACs are those of candidates "
            "and of blocks that this search converted, without the guide's training."
        )
    )
    return pieces


MEMBER = Section("Progress", 40, write)
