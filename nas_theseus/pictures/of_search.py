"""Plots of a search, drawn with plotly (interactive) and matplotlib (for print)."""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nas_theseus.storage.whole_files import replacing
from nas_theseus.values.goals import Objective
from nas_theseus.values.outcomes import Evaluation
from nas_theseus.values.registers import COSTS

_FAINT, _FRONT = "#9aa5b1", "#c2410c"


@dataclass(frozen=True)
class _Picture:
    """Content of both plots: axes and points."""

    x: Objective
    y: Objective
    others: tuple[Evaluation, ...]
    front: tuple[Evaluation, ...]
    title: str


def axes_of(
    objectives: Sequence[Objective], evaluations: Sequence[Evaluation]
) -> tuple[Objective, Objective]:
    """The objectives along the x and the y axis of a front.

    Raises:
        ValueError: there is no objective.
    """
    if not objectives:
        raise ValueError("plotting a front needs objectives, got none")
    # The user's own costs are in the evaluations, so the space file need not be run.
    known = {*COSTS}.union(*(evaluation.cost.numbers for evaluation in evaluations))
    costs = [objective for objective in objectives if objective.name in known]
    qualities = [objective for objective in objectives if objective.name not in known]
    # Two costs or two qualities are plotted against each other; a single objective is plotted
    # against MACs, which every evaluation has.
    y = (qualities or costs[1:] or costs)[0]
    rest = [objective for objective in objectives if objective.name != y.name]
    x = (costs if y in qualities and costs else [*rest, Objective("macs", "minimize", log=True)])[0]
    return x, y


def _drawable(evaluation: Evaluation, objective: Objective) -> bool:
    value = evaluation.values().get(objective.name, math.nan)
    return math.isfinite(value) and (value > 0 or not objective.log)


def _picture(
    evaluations: Sequence[Evaluation],
    front: Collection[str],
    objectives: Sequence[Objective],
    title: str,
) -> _Picture:
    x, y = axes_of(objectives, evaluations)
    shown = [item for item in evaluations if _drawable(item, x) and _drawable(item, y)]
    on_front = [item for item in shown if item.architecture.id in front]
    if missing := len(evaluations) - len(shown):
        title = f"{title} ({missing} without {x.name} or {y.name} not shown)"
    return _Picture(
        x=x,
        y=y,
        others=tuple(item for item in shown if item.architecture.id not in front),
        front=tuple(sorted(on_front, key=lambda item: (item.value(x.name), item.value(y.name)))),
        title=title,
    )


def _hover(evaluation: Evaluation) -> str:
    architecture = evaluation.architecture
    lines = [
        f"<b>{architecture.id}</b>",
        # One block a line: a deep target would run off the screen.
        *(html.escape(architecture.label(n)) for n in range(len(architecture.choices))),
        *(f"{html.escape(name)} = {value:,.6g}" for name, value in evaluation.values().items()),
    ]
    return "<br>".join(lines)


def _label(objective: Objective) -> str:
    better = "more is better" if objective.direction == "maximize" else "less is better"
    return f"{objective.name} ({better})"


def front_figure(
    evaluations: Sequence[Evaluation],
    front: Collection[str],
    objectives: Sequence[Objective],
    title: str,
) -> go.Figure:
    """All evaluations as faint points, the front as connected points, with details on hover.

    Args:
        evaluations: evaluations to plot; those without finite values for both axes are left out
            and counted in the title.
        front: ids of the architectures on the front.
        objectives: the first cost is the x axis, the first quality the y axis.
        title: title of the plot.

    Raises:
        ValueError: there is no objective.
    """
    picture = _picture(evaluations, front, objectives, title)
    x, y = picture.x, picture.y
    figure = go.Figure()
    for name, members, style in (
        ("evaluations", picture.others, {"mode": "markers", "opacity": 0.45}),
        ("front", picture.front, {"mode": "lines+markers"}),
    ):
        figure.add_trace(
            go.Scatter(
                x=[item.value(x.name) for item in members],
                y=[item.value(y.name) for item in members],
                customdata=[item.architecture.id for item in members],
                hovertext=[_hover(item) for item in members],
                hoverinfo="text",
                name=name,
                marker={"color": _FRONT if name == "front" else _FAINT, "size": 8},
                **style,
            )
        )
    figure.update_layout(template="plotly_white", title=html.escape(picture.title))
    figure.update_xaxes(title=_label(x), type="log" if x.log else "linear")
    figure.update_yaxes(title=_label(y), type="log" if y.log else "linear")
    return figure


def _print_figure(picture: _Picture) -> Figure:
    # The object-oriented interface: pyplot keeps global state and may want a display.
    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, members, style in (
        ("evaluations", picture.others, {"color": _FAINT, "alpha": 0.45, "linestyle": "none"}),
        ("front", picture.front, {"color": _FRONT, "linestyle": "-"}),
    ):
        axes.plot(
            [item.value(picture.x.name) for item in members],
            [item.value(picture.y.name) for item in members],
            marker="o",
            markersize=4,
            label=name,
            **style,
        )
    axes.set_xscale("log" if picture.x.log else "linear")
    axes.set_yscale("log" if picture.y.log else "linear")
    axes.set_xlabel(_label(picture.x))
    axes.set_ylabel(_label(picture.y))
    # parse_math off: a dollar sign in a search's name is a dollar sign.
    axes.set_title(picture.title, fontsize=10, parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def write_front(
    folder: Path,
    evaluations: Sequence[Evaluation],
    front: Collection[str],
    objectives: Sequence[Objective],
    title: str,
) -> tuple[Path, Path]:
    """Write ``front.html`` (works offline) and ``front.png``, each atomically.

    Args:
        folder: folder to write to; created if it does not exist.
        evaluations, front, objectives, title: as for `front_figure`.

    Returns:
        The two paths.

    Raises:
        StorageError: a file cannot be written.
        ValueError: there is no objective.
    """
    page, image = folder / "front.html", folder / "front.png"
    interactive = front_figure(evaluations, front, objectives, title)
    printed = _print_figure(_picture(evaluations, front, objectives, title))
    with replacing(page) as aside:
        interactive.write_html(aside, include_plotlyjs=True)
    with replacing(image) as aside:
        printed.savefig(aside, format="png")
    return page, image


def switching_picture(networks: Sequence[Mapping[str, Any]], metric: str, title: str) -> Figure:
    """Quality over MACs for all networks of a stitchable net, with its anchors marked."""
    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for is_anchor, name, color, marker in (
        (False, "stitches", _FAINT, "o"),
        (True, "anchors", _FRONT, "s"),
    ):
        shown = [network for network in networks if network["anchor"] is is_anchor]
        values = [[network[key] for network in shown] for key in ("macs", metric)]
        axes.plot(*values, linestyle="none", marker=marker, color=color, label=name)
    axes.set_xlabel("macs (less is better)")
    axes.set_ylabel(metric)
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
