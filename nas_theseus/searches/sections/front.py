"""The front with the guide, and with the baselines that the records allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nas_theseus.estimate.pareto import front_of
from nas_theseus.pictures.of_search import axes_of, front_figure
from nas_theseus.pictures.page import Cell, Link, Paragraph, Piece, Plot, Table
from nas_theseus.searches.figures import number
from nas_theseus.searches.records import Records, is_uniform
from nas_theseus.searches.section import Section, network_anchor
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.outcomes import Evaluation

_OTHER_SEEDS = "with other seeds"
_MARKERS = (("one block throughout", "#2563eb", "square"), ("random search", "#0f766e", "diamond"))


def write(records: Records) -> Sequence[Piece]:
    """A plot over the first cost, and a table with every objective and test score."""
    if not records.members:
        return [Paragraph("No evaluated network keeps the search's limits, so there is no front.")]
    ids = {member.evaluation.architecture.id for member in records.members}
    uniform = [one for one in records.feasible if is_uniform(one.architecture)]
    random = front_of(records.random, records.goals) if records.random else []
    baselines = dict(zip((name for name, _, _ in _MARKERS), (uniform, random), strict=True))
    figure = front_figure(
        records.evaluations, ids, records.goals, "", guide=records.guide, spreads=records.spreads
    )
    _add_others(figure, records, baselines)
    aims = " and ".join(
        f"{'more' if goal.direction == 'maximize' else 'less'} {goal.name}"
        for goal in records.goals
    )
    others = [one for one in records.evaluations if one.architecture.id not in ids]
    goals = [goal.name for goal in records.goals]
    rows = [
        [
            one.architecture.id,
            *(number(one.values().get(name)) for name in goals),
            _blocks(one.architecture),
        ]
        for one in others
    ]
    columns = ["network", *goals, "blocks"]
    return [
        Paragraph(
            f"The search wants {aims}. A network is on the front if no other evaluated network is "
            "at least as good in all of these and better in one. Test scores are measured once, "
            "when the search finishes; nothing was chosen by them."
        ),
        Plot(figure, "Every evaluated network. The tables below have the numbers."),
        Table(_caption(records), _columns(records), list(_rows(records, baselines))),
        *([Table("All other evaluated networks", columns, rows)] if others else []),
        Paragraph(_about_baselines(records, uniform)),
    ]


def _blocks(architecture: Architecture) -> str:
    return architecture.blocks.replace("|", " | ")  # so that long lists wrap


def _caption(records: Records) -> str:
    return f"The front: {len(records.members)} of {len(records.evaluations)} evaluated networks"


def _add_others(
    figure: go.Figure, records: Records, baselines: Mapping[str, Sequence[Evaluation]]
) -> None:
    x, y = axes_of(records.goals, records.evaluations)
    for name, colour, symbol in _MARKERS:
        if shown := baselines[name]:
            figure.add_trace(
                go.Scatter(
                    x=[one.values().get(x.name) for one in shown],
                    y=[one.values().get(y.name) for one in shown],
                    hovertext=[one.architecture.id for one in shown],
                    mode="markers",
                    marker={"color": colour, "symbol": symbol, "size": 9},
                    name=name,
                )
            )


def _names(records: Records) -> tuple[list[str], list[str]]:
    """Names of the objectives, and of the test scores that at least one network has."""
    tests = chain(*(member.test for member in records.members), records.guide)
    found = dict.fromkeys(name for name in tests if name.startswith("test_"))
    return [goal.name for goal in records.goals], list(found)


def _columns(records: Records) -> list[str]:
    goals, tests = _names(records)
    return ["network", *goals, *tests, *([_OTHER_SEEDS] if records.spreads else []), "blocks"]


def _rows(
    records: Records, baselines: Mapping[str, Sequence[Evaluation]]
) -> Sequence[Sequence[Cell]]:
    goals, tests = _names(records)

    def row(name: Cell, values: Mapping[str, float], blocks: str, seeds: str = "–") -> list[Cell]:
        shown = [number(values.get(each)) for each in (*goals, *tests)]
        return [name, *shown, *([seeds] if records.spreads else []), blocks]

    rows = [row("guide", records.guide, "–")] if records.guide else []
    for member in records.members:
        one = member.evaluation
        link = Link(one.architecture.id, network_anchor(one.architecture.id))
        values, blocks = {**one.values(), **member.test}, _blocks(one.architecture)
        spread = records.spreads.get(one.architecture.id)
        rows.append(row(link, values, blocks, "–" if spread is None else str(spread)))
    for name, evaluations in baselines.items():
        for one in evaluations:
            label = f"{name}: {one.architecture.id}"
            rows.append(row(label, one.values(), _blocks(one.architecture)))
    return rows


def _about_baselines(records: Records, uniform: Sequence[Evaluation]) -> str:
    said = []
    if uniform:
        said.append(
            f"{len(uniform)} evaluated networks use one block throughout, the simplest way to make "
            "a network smaller; they are marked."
        )
    else:
        said.append("No evaluated network uses one block throughout.")
    if records.random:
        said.append(
            f"Another search of this storage folder, with the same guide, recipe and objectives, "
            f"proposed at random ({len(records.random)} evaluations); its front is shown."
        )
    elif records.begun.sampler == "random":
        said.append("This search itself proposed at random.")
    else:
        said.append(
            "For a comparison with random proposals, run the same space under another --name with "
            "--sampler random; this report then shows both."
        )
    return " ".join(said)


MEMBER = Section("The front", 10, write)
