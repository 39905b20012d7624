"""Plots of one conversion, drawn with matplotlib: blocks, similarity, quality during conversion."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from nas_theseus.space.search_space import SearchSpace
from nas_theseus.storage.whole_files import replacing
from nas_theseus.values.architecture import Architecture, BlockChoice
from nas_theseus.values.goals import Objective
from nas_theseus.values.outcomes import Evaluation

SIMILARITY_FILE, CHAIN_FILE = "similarity.png", "chain.png"
REPLACEMENTS_FILE = "replacements.png"

_GUIDE, _NEW, _KEPT = "#dbe4ee", "#fbd9c4", "#eef0f2"
_BOTTLENECK, _EDGE = "#c2410c", "#4b5563"
_LEAST = 1e-6  # drawn for a similarity of 1, which has no place on a log scale
_PARTS_A_ROW = 10
_PART_INCH, _LINE_INCH = 1.5, 0.13


def similarity_picture(evaluation: Evaluation) -> Figure:
    """1 − similarity of every aligned block over the stages, with names of the bottlenecks.

    Each block is a line from the first to the last stage in which it was aligned. Bottlenecks are
    the blocks with the lowest last similarity: one in three, at most three (ours).

    Source: Network of Theseus, arXiv:2512.04198, figure 5.
    """
    architecture, lines = evaluation.architecture, evaluation.similarities
    labels = {position: architecture.label(position) for position in lines}
    last = {position: stages[max(stages)] for position, stages in lines.items()}
    worst = sorted(last, key=last.__getitem__)[: min(3, math.ceil(len(last) / 3))]
    room = 0.062 * max((len(label) for label in labels.values()), default=0)
    figure, axes = _figure(7 + room, max(4.5, 0.17 * len(lines) + 1))
    for index, (position, stages) in enumerate(lines.items()):
        bottleneck = position in worst
        axes.plot(
            list(stages),
            [max(1 - value, _LEAST) for value in stages.values()],
            color=colormaps["viridis"](0.9 * index / max(1, len(lines) - 1)),
            linewidth=2.5 if bottleneck else 1,
            marker="s" if bottleneck else "o",
            markersize=6 if bottleneck else 3,
            label=labels[position],
        )
        if bottleneck:
            axes.annotate(
                str(position),
                (max(stages), max(1 - last[position], _LEAST)),
                (6, 0),
                textcoords="offset points",
                color=_BOTTLENECK,
                weight="bold",
                va="center",
            )
    axes.set_yscale("log")
    axes.set_xlabel("stage")
    axes.set_ylabel("1 − similarity to the guide (less is better)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3, which="both")
    if lines:
        named = "\n".join(labels[position] for position in worst)
        title = f"bottlenecks, the least similar first:\n{named}"
        legend = figure.legend(loc="outside right upper", fontsize=7)
        for text in legend.get_texts():
            text.set_parse_math(False)
    else:
        title = "no block was aligned"
    axes.set_title(title, fontsize=9, color=_BOTTLENECK, parse_math=False)
    return figure


def replacements_picture(
    runs: Mapping[str, Sequence[tuple[int, float]]], quality: Objective
) -> Figure:
    """Quality of the partly converted network, from the guide to the target; one line per run.

    Args:
        runs: by label, pairs of the number of replaced blocks and the network's quality.
        quality: the task's metric; on a log scale if less is better (perplexity).

    Source: Network of Theseus, arXiv:2512.04198, figure 4.
    """
    figure, axes = _figure(7, 4.5)
    for label, points in runs.items():
        shown = [value if math.isfinite(value) else math.nan for _, value in points]
        axes.plot([count for count, _ in points], shown, marker="o", markersize=4, label=label)
    more = quality.direction == "maximize"
    axes.set_yscale("linear" if more else "log")
    axes.set_ylabel(f"{quality.name} ({'more' if more else 'less'} is better)")
    axes.set_xlabel("replaced blocks, from the guide to the target")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def chain_picture(space: SearchSpace, architecture: Architecture) -> Figure:
    """The guide's parts above the target's blocks, each block as wide as its span.

    A long chain is drawn in several rows of about ten parts, broken between blocks. One horizontal
    unit is one part. If widths are free, the shapes after the target's blocks are shown.
    """
    rows = list(_rows(architecture))
    blocks = {c: _block_text(space, p, c) for p, c in enumerate(architecture.choices)}
    tall = _LINE_INCH * (2 + max(text.count("\n") for text in blocks.values()))
    height = 1.15 + tall  # height of a row: shapes, parts, blocks, shapes
    parts = max(row[-1].span.stop - row[0].span.start for row in rows)
    figure = Figure(figsize=((parts + 1.4) * _PART_INCH, height * len(rows) + 0.1), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-0.9, parts + 0.5)
    axes.set_ylim(-height * len(rows) - 0.05, 0.05)  # inches
    for index, row in enumerate(rows):
        top, start = -height * index, row[0].span.start
        guide, below = top - 0.7, top - 0.8 - tall
        for y, name in ((guide + 0.225, "guide"), (below + tall / 2, "target")):
            axes.text(-0.85, y, name, fontsize=9, weight="bold", va="center")
        for boundary in range(start, row[-1].span.stop + 1):
            _write(axes, boundary - start, top - 0.14, str(space.boundary(boundary).shape))
        for part in range(start, row[-1].span.stop):
            name = _part_text(part, space.guide.names[part])
            _box(axes, part - start, 1, guide, 0.45, _GUIDE, name)
        for choice in row:
            colour = _KEPT if space.families[choice.block].keeps else _NEW
            left = choice.span.start - start
            _box(axes, left, len(choice.span), below, tall, colour, blocks[choice])
            stop = choice.span.stop
            if space.shares(stop) != (1.0,):
                shape = space.boundary(stop, choice.width_share).shape
                _write(axes, stop - start, below - 0.12, str(shape))
    return figure


def write_picture(figure: Figure, path: Path) -> None:
    """Write a plot as PNG, atomically.

    Raises:
        StorageError: the file cannot be written.
    """
    with replacing(path) as aside:
        figure.savefig(aside, format="png")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    # The object-oriented interface: pyplot keeps global state and may want a display.
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _rows(architecture: Architecture) -> Iterator[list[BlockChoice]]:
    """Blocks of each row of the plot."""
    row: list[BlockChoice] = []
    for choice in architecture.choices:
        if row and choice.span.stop - row[0].span.start > _PARTS_A_ROW:
            yield row
            row = []
        row.append(choice)
    yield row


def _part_text(part: int, name: str) -> str:
    """Index and name; long names are broken after dots."""
    lines = textwrap.wrap(f"{part}: {name}".replace(".", ". "), 22)
    return "\n".join(lines).replace(". ", ".")


def _block_text(space: SearchSpace, position: int, choice: BlockChoice) -> str:
    """Position and name, then hyperparameters, one per line; kept parts are marked."""
    name = "kept" if space.families[choice.block].keeps else choice.block
    values = [f"{name}={value}" for name, value in choice.hyperparameters]
    lines = [f"{position}: {name}", *values]
    return "\n".join(
        piece for line in lines for piece in textwrap.wrap(line, 24 * len(choice.span))
    )


def _box(
    axes: Axes, left: float, width: float, bottom: float, height: float, colour: str, text: str
) -> None:
    """A box with a name; a small gap separates neighbours."""
    gap = 0.03
    axes.add_patch(
        Rectangle(
            (left + gap, bottom),
            width - 2 * gap,
            height,
            facecolor=colour,
            edgecolor=_EDGE,
            linewidth=0.8,
            linestyle="--" if colour == _KEPT else "-",
            gid=text,
        )
    )
    _write(axes, left + width / 2, bottom + height / 2, text)


def _write(axes: Axes, x: float, y: float, text: str) -> None:
    axes.text(x, y, text, fontsize=7, ha="center", va="center", parse_math=False)
