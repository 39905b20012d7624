"""Each network of the front beside simpler ways to the same cost."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nas_theseus.pictures.page import Cell, Link, Paragraph, Piece, Plot, Table
from nas_theseus.searches.figures import number
from nas_theseus.searches.records import Records, is_uniform
from nas_theseus.searches.section import Section, network_anchor
from nas_theseus.values.goals import Objective
from nas_theseus.values.outcomes import Evaluation

# Random architectures are compared with a network if they cost between this share and all of it.
NEAR = 0.8
_MACS = Objective("macs", "minimize", log=True)


def write(records: Records) -> Sequence[Piece]:
    """A plot and a table over the first cost, and what is missing in them."""
    quality = records.quality
    if not records.members or quality is None:
        missing = "quality among its objectives" if quality is None else "front yet"
        return [Paragraph(f"This search has no {missing}.")]
    cost = next((cost for cost in records.costs if cost.direction == "minimize"), _MACS)
    uniform = [one for one in records.feasible if is_uniform(one.architecture)]
    columns = [
        "network",
        cost.name,
        quality.name,
        "one block throughout",
        "random search",
        "random architectures, predicted",
    ]
    members = sorted((m.evaluation for m in records.members), key=lambda m: m.value(cost.name))
    rows = [
        [
            Link(one.architecture.id, network_anchor(one.architecture.id)),
            number(one.value(cost.name)),
            number(one.value(quality.name)),
            _best(uniform, one, quality, cost),
            _best(records.random, one, quality, cost),
            _by_chance(records, one, quality, cost),
        ]
        for one in members
    ]
    figure = _figure(records, members, uniform, (quality, cost))
    return [
        Paragraph(
            f"What other ways to the same {cost.name} give. Of evaluated networks of one block "
            "throughout, and of a random search, the best that costs at most as much is shown. "
            f"Random architectures cost {NEAR:.0%} to 100 % of the network; of their predicted "
            f"{quality.name} the median and, in brackets, the best are shown."
        ),
        *([figure] if figure else []),
        Table(f"The front beside networks of at most the same {cost.name}", columns, rows),
        Paragraph(_missing(records, uniform)),
    ]


def _best(
    others: Sequence[Evaluation], one: Evaluation, quality: Objective, cost: Objective
) -> Cell:
    """The best quality of those that cost at most as much."""
    within = [
        other.values()[quality.name]
        for other in others
        if {quality.name, cost.name} <= other.values().keys()
        and other.value(cost.name) <= one.value(cost.name)
    ]
    best = max if quality.direction == "maximize" else min
    return number(best(within)) if within else "–"


def _by_chance(records: Records, one: Evaluation, quality: Objective, cost: Objective) -> Cell:
    if records.chance is None:
        return "–"
    whole = one.value(cost.name)
    near = records.chance.within(cost.name, NEAR * whole, whole)
    best = max if quality.direction == "maximize" else min
    return f"{number(median(near))} ({number(best(near))}) of {len(near)}" if near else "–"


def _figure(
    records: Records,
    members: Sequence[Evaluation],
    uniform: Sequence[Evaluation],
    axes: tuple[Objective, Objective],
) -> Plot | None:
    """Quality over cost; None if there is nothing beside the front."""
    quality, cost = axes
    chance = records.chance
    shown = chance is not None and cost.name in chance.costs
    if not (uniform or records.random or shown):
        return None
    figure = go.Figure()
    if chance is not None and shown:
        figure.add_trace(
            go.Scatter(
                x=chance.costs[cost.name],
                y=chance.quality,
                mode="markers",
                marker={"color": "#9aa5b1", "size": 5},
                name="random architectures, predicted",
            )
        )
    for name, evaluations, style in (
        ("one block throughout", uniform, {"color": "#2563eb", "symbol": "square", "size": 9}),
        ("random search", records.random, {"color": "#0f766e", "symbol": "diamond", "size": 8}),
        ("front", members, {"color": "#c2410c", "size": 9}),
    ):
        if evaluations:
            figure.add_trace(
                go.Scatter(
                    x=[one.values().get(cost.name) for one in evaluations],
                    y=[one.values().get(quality.name) for one in evaluations],
                    mode="lines+markers" if name == "front" else "markers",
                    marker=style,
                    name=name,
                )
            )
    figure.update_xaxes(title=cost.name, type="log" if cost.log else "linear")
    figure.update_yaxes(title=quality.name, type="log" if quality.log else "linear")
    return Plot(figure, f"{quality.name} over {cost.name}; the table compares at equal cost.")


def _missing(records: Records, uniform: Sequence[Evaluation]) -> str:
    said = []
    if not uniform:
        said.append("The search evaluated no network of one block throughout.")
    if not records.random:
        said.append("No random search of the same space is in this storage folder.")
    chance = records.chance
    if chance is None:
        said.append(
            "Random architectures are drawn when a search finishes; none are recorded here."
        )
    else:
        said.append(
            f"{len(chance.quality)} random architectures are predicted by the search's estimate "
            f"from {chance.learnt_from} evaluations and the scores of the library, which has "
            f"{chance.in_library:.0%} of their new blocks. They were not trained."
        )
    return " ".join(said)


MEMBER = Section("Against other ways to the same cost", 30, write)
