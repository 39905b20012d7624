"""Heatmaps of matrices, drawn with plotly (interactive) and matplotlib (for print)."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go  # type: ignore[import-untyped]
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from plotly.subplots import make_subplots  # type: ignore[import-untyped]

from nas_theseus.storage.whole_files import replacing

Matrix = Sequence[Sequence[float | None]]
Panels = Sequence[Mapping[str, Matrix]]

HEATMAP_PAGE, HEATMAP_IMAGE = "heatmap.html", "heatmap.png"
_SCALE = "viridis"


def heatmap_page(
    panels: Panels, rows: Sequence[str], columns: Sequence[str], title: str
) -> go.Figure:
    """All matrices as heatmaps: one line of heatmaps per mapping, each with its own colour range.

    Args:
        panels: matrices by heading, values in [0, 1]; None is left blank.
        rows, columns: names along the axes, with the first row on top.
    """
    width = max(len(line) for line in panels)
    headings = [html.escape(heading) for line in panels for heading in line]
    figure = make_subplots(
        rows=len(panels),
        cols=width,
        subplot_titles=headings,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.16,
    )
    for number, line in enumerate(panels, start=1):
        for place, matrix in enumerate(line.values(), start=1):
            figure.add_trace(
                go.Heatmap(
                    z=[list(row) for row in matrix],
                    x=list(columns),
                    y=list(rows),
                    coloraxis=f"coloraxis{number}",
                    hovertemplate="sender %{y}<br>receiver %{x}<br>%{z:.4f}<extra></extra>",
                ),
                row=number,
                col=place,
            )
        low, high = _range(line)
        middle = 1 - (number - 0.5) / len(panels)
        bar = {"y": middle, "len": 0.9 / len(panels)}
        colours = {"colorscale": _SCALE, "cmin": low, "cmax": high, "colorbar": bar}
        figure.update_layout({f"coloraxis{number}": colours})
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(template="plotly_white", title=html.escape(title))
    return figure


def heatmap_picture(
    panels: Panels, rows: Sequence[str], columns: Sequence[str], title: str
) -> Figure:
    """The same as `heatmap_page`, for print; small matrices show their values."""
    width = max(len(line) for line in panels)
    figure = Figure(
        figsize=(
            1.2 + width * (0.9 + 0.32 * len(columns)),
            0.8 + len(panels) * (1.1 + 0.28 * len(rows)),
        ),
        dpi=150,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    for number, line in enumerate(panels):
        low, high = _range(line)
        drawn = []
        for place, (heading, matrix) in enumerate(line.items()):
            axes = figure.add_subplot(len(panels), width, number * width + place + 1)
            values = [[math.nan if v is None else v for v in row] for row in matrix]
            shown = axes.imshow(values, cmap=_SCALE, vmin=low, vmax=high, aspect="auto")
            axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=6)
            axes.set_yticks(range(len(rows)), rows if place == 0 else [""] * len(rows), fontsize=6)
            axes.set_title(heading, fontsize=8, parse_math=False)
            if place == 0:
                axes.set_ylabel("sender", fontsize=7)
            axes.set_xlabel("receiver", fontsize=7)
            for i, row in enumerate(values):
                for j, value in enumerate(row):
                    if len(rows) <= 10 and math.isfinite(value):
                        dark = value < (low + high) / 2
                        axes.text(
                            j,
                            i,
                            f"{100 * value:.0f}",
                            fontsize=5,
                            ha="center",
                            va="center",
                            color="white" if dark else "black",
                        )
            drawn.append(axes)
        figure.colorbar(shown, ax=drawn, shrink=0.8)
    figure.suptitle(title, fontsize=9, parse_math=False)
    return figure


def write_heatmaps(
    folder: Path, panels: Panels, rows: Sequence[str], columns: Sequence[str], title: str
) -> tuple[Path, Path]:
    """Write ``heatmap.html`` (works offline) and ``heatmap.png``, each atomically.

    Raises:
        StorageError: a file cannot be written.
    """
    page, image = folder / HEATMAP_PAGE, folder / HEATMAP_IMAGE
    with replacing(page) as aside:
        heatmap_page(panels, rows, columns, title).write_html(aside, include_plotlyjs=True)
    with replacing(image) as aside:
        heatmap_picture(panels, rows, columns, title).savefig(aside, format="png")
    return page, image


def _range(line: Mapping[str, Matrix]) -> tuple[float, float]:
    """Colour range of one line of heatmaps: from 0, or the smallest if below, to the largest."""
    values = [v for matrix in line.values() for row in matrix for v in row if v is not None]
    return min([0.0, *values]), max([1e-9, *values])
