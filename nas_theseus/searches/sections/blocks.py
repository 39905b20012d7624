"""Which blocks win where: how often each block stands for each part of the guide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nas_theseus.pictures.page import Paragraph, Piece, Plot, Table
from nas_theseus.searches.records import Records
from nas_theseus.searches.section import Section
from nas_theseus.values.architecture import Architecture


def uses(architectures: Iterable[Architecture]) -> Counter[tuple[int, str]]:
    """In how many architectures each block stands for each part, by part and name of the block."""
    return Counter(
        (part, choice.block)
        for architecture in architectures
        for choice in architecture.choices
        for part in range(choice.span.start, choice.span.stop)
    )


def write(records: Records) -> Sequence[Piece]:
    """A map of the front, a map of all evaluations, and a table of both."""
    if not records.evaluations:
        return [Paragraph("No candidate has finished yet.")]
    every = uses(one.architecture for one in records.evaluations)
    front = uses(member.evaluation.architecture for member in records.members)
    names = sorted({block for _, block in every})
    parts = records.parts
    total, best = len(records.evaluations), len(records.members)
    pieces: list[Piece] = [
        Paragraph(
            "A block wins at a part of the guide if it stands there in more of the front than of "
            "all evaluated networks. A block for several parts counts at each of them; options of "
            "blocks are not told apart."
        )
    ]
    for title, counts, size in (
        (f"the {best} networks of the front", front, best),
        (f"all {total} evaluated networks", every, total),
    ):
        if size:
            shares = [[counts[part, name] / size for name in names] for part in range(len(parts))]
            pieces.append(_map(shares, names, parts, title))
    rows = [
        [part, *(_counts(front[index, name], every[index, name]) for name in names)]
        for index, part in enumerate(parts)
    ]
    columns = ["part of the guide", *names]
    caption = (
        f"Networks with each block at each part: of the {best} on the front / of all {total} "
        "evaluated ones"
    )
    return [*pieces, Table(caption, columns, rows)]


def _counts(front: int, every: int) -> str:
    return f"{front} / {every}" if every else "–"


def _map(
    shares: Sequence[Sequence[float]], names: Sequence[str], parts: Sequence[str], title: str
) -> Plot:
    figure = go.Figure(
        go.Heatmap(
            z=shares,
            x=list(names),
            y=list(parts),
            zmin=0,
            zmax=1,
            colorscale="viridis",
            colorbar={"tickformat": ".0%", "thickness": 12},
            hovertemplate="%{x} at %{y}: %{z:.0%}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(type="category")
    height = 160 + 22 * len(parts)
    return Plot(figure, f"Share of {title} with each block at each part; see the table.", height)


MEMBER = Section("Which blocks win where", 70, write)
