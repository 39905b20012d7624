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
from matplotlib.ticker import PercentFormatter

from nas_theseus.estimate.spread import Spread
from nas_theseus.pictures.axes import for_plotly, format_axis, is_share, words
from nas_theseus.storage.whole_files import replacing
from nas_theseus.values.goals import Objective
from nas_theseus.values.outcomes import Evaluation
from nas_theseus.values.registers import COSTS

_SPREADS = "mean ± standard deviation, other seeds"
_NOTHING: Mapping[str, Any] = {}
_FAINT, _FRONT, _GUIDE = "#9aa5b1", "#c2410c", "#b45309"


@dataclass(frozen=True)
class _Picture:
    """Content of both plots: axes and points.

    Attributes:
        guide: where the guide is; None if its values are not known.
        spreads: cost, and mean and standard deviation of the quality with several seeds.
    """

    x: Objective
    y: Objective
    others: tuple[Evaluation, ...]
    front: tuple[Evaluation, ...]
    title: str
    guide: tuple[float, float] | None
    spreads: tuple[tuple[float, Spread], ...]

    def along(self, objective: Objective) -> list[float]:
        """All values along an axis."""
        return [one.value(objective.name) for one in (*self.others, *self.front)]


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
    guide: Mapping[str, float],
    spreads: Mapping[str, Spread],
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
        guide=(guide[x.name], guide[y.name]) if x.name in guide and y.name in guide else None,
        spreads=tuple(
            (item.value(x.name), spreads[item.architecture.id])
            for item in on_front
            if item.architecture.id in spreads
        ),
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


def front_figure(
    evaluations: Sequence[Evaluation],
    front: Collection[str],
    objectives: Sequence[Objective],
    title: str,
    *,
    guide: Mapping[str, float] = _NOTHING,
    spreads: Mapping[str, Spread] = _NOTHING,
) -> go.Figure:
    """All evaluations as faint points, the front as connected points, with details on hover.

    Args:
        evaluations: evaluations to plot; those without finite values for both axes are left out
            and counted in the title.
        front: ids of the architectures on the front.
        objectives: the first cost is the x axis, the first quality the y axis.
        title: title of the plot.
        guide: values of the guide by name; it is marked if both axes are among them.
        spreads: the y axis's quality with several seeds, by architecture; drawn as error bars.

    Raises:
        ValueError: there is no objective.
    """
    picture = _picture(evaluations, front, objectives, title, guide, spreads)
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
    _add_guide_and_spreads(figure, picture)
    figure.update_layout(template="plotly_white", title=html.escape(picture.title))
    figure.update_xaxes(**for_plotly(x))
    figure.update_yaxes(**for_plotly(y))
    return figure


def _add_guide_and_spreads(figure: go.Figure, picture: _Picture) -> None:
    if picture.spreads:
        deviations = [spread.deviation for _, spread in picture.spreads]
        figure.add_trace(
            go.Scatter(
                x=[cost for cost, _ in picture.spreads],
                y=[spread.mean for _, spread in picture.spreads],
                error_y={"type": "data", "array": deviations, "color": _FRONT},
                hovertext=[str(spread) for _, spread in picture.spreads],
                hoverinfo="text",
                mode="markers",
                marker={"color": _FRONT, "symbol": "line-ew-open", "size": 12},
                name=_SPREADS,
            )
        )
    if picture.guide is not None:
        figure.add_trace(
            go.Scatter(
                x=[picture.guide[0]],
                y=[picture.guide[1]],
                mode="markers",
                marker={"color": _GUIDE, "symbol": "star", "size": 14},
                name="guide",
            )
        )


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
    if picture.spreads:
        axes.errorbar(
            [cost for cost, _ in picture.spreads],
            [spread.mean for _, spread in picture.spreads],
            yerr=[spread.deviation for _, spread in picture.spreads],
            color=_FRONT,
            linestyle="none",
            marker="_",
            capsize=3,
            label=_SPREADS,
        )
    if picture.guide is not None:
        place = ([value] for value in picture.guide)
        axes.plot(*place, color=_GUIDE, linestyle="none", marker="*", markersize=11, label="guide")
    axes.set_xscale("log" if picture.x.log else "linear")
    axes.set_yscale("log" if picture.y.log else "linear")
    format_axis(axes.xaxis, picture.x, picture.along(picture.x))
    format_axis(axes.yaxis, picture.y, picture.along(picture.y))
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
    *,
    guide: Mapping[str, float] = _NOTHING,
    spreads: Mapping[str, Spread] = _NOTHING,
) -> tuple[Path, Path]:
    """Write ``front.html`` (works offline) and ``front.png``, each atomically.

    Args:
        folder: folder to write to; created if it does not exist.
        evaluations, front, objectives, title, guide, spreads: as for `front_figure`.

    Returns:
        The two paths.

    Raises:
        StorageError: a file cannot be written.
        ValueError: there is no objective.
    """
    page, image = folder / "front.html", folder / "front.png"
    given = evaluations, front, objectives, title
    interactive = front_figure(*given, guide=guide, spreads=spreads)
    printed = _print_figure(_picture(*given, guide, spreads))
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
    format_axis(axes.xaxis, Objective("macs", "minimize"), [])
    axes.yaxis.set_label_text(words(metric))
    if is_share(metric):
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
