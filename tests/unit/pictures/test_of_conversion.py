"""Pictures of a conversion: what is drawn, where, and how it is named."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from matplotlib import image
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

from nas_theseus import SearchSpace
from nas_theseus.blocks import Bottleneck, Keep, Linear, choice
from nas_theseus.guide.chain import Guide
from nas_theseus.pictures.of_conversion import (
    chain_picture,
    replacements_picture,
    similarity_picture,
    write_picture,
)
from nas_theseus.tasks import digits
from nas_theseus.values.architecture import Architecture, BlockChoice, Boundary, Span
from nas_theseus.values.goals import Objective
from nas_theseus.values.outcomes import Cost, CurvePoint, Evaluation

HALF = (("ratio", 0.5),)


def space(parts: int, widths: tuple[float, ...] = (1.0,)) -> SearchSpace:
    """A guide of `parts` convolutions, which is drawn and never run."""
    chain = [
        (f"part{index}", nn.Conv2d(8 if index else 1, 8, 3, 1, 1)) for index in range(parts - 1)
    ]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return SearchSpace(
        guide=Guide([*chain, ("head", head)], Boundary((1, 8, 8))),
        task=digits(),
        blocks=[Keep(), Bottleneck(ratio=choice(0.25, 0.5)), Linear()],
        max_span=parts,
        widths=widths,
        keep=["head"],
    )


def evaluation(architecture: Architecture, *curve: tuple[str, int, float]) -> Evaluation:
    points = tuple(CurvePoint(*point) for point in curve)
    return Evaluation(
        architecture, "r", 0, {"val_accuracy": 0.5}, Cost({"macs": 1, "params": 1}), 0, 1.0, points
    )


def boxes(figure: Figure) -> list[tuple[str, float, float, float]]:
    """Text, centre, width and row (from the top) of every box; its text stands in its middle."""
    (axes,) = figure.axes
    found = []
    patches = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    levels = sorted({round(p.get_y(), 3) for p in patches}, reverse=True)
    texts = {tuple(round(c, 3) for c in t.get_position()): t.get_text() for t in axes.texts}
    for patch in patches:
        x, y = patch.get_center()
        text = texts[round(float(x), 3), round(float(y), 3)]
        found.append(
            (text, round(float(x), 3), patch.get_width(), levels.index(round(patch.get_y(), 3)))
        )
    return found


CHAIN = Architecture(
    (
        BlockChoice(Span(0, 1), "keep"),
        BlockChoice(Span(1, 4), "bottleneck", HALF, 0.5),
        BlockChoice(Span(4, 5), "linear"),
        BlockChoice(Span(5, 6), "keep"),
    )
)


def test_a_block_stands_below_the_parts_of_its_span() -> None:
    figure = chain_picture(space(6), CHAIN)
    found = boxes(figure)
    parts = [box for box in found if box[3] == 0]
    blocks = [box for box in found if box[3] == 1]
    assert [text for text, *_ in parts] == [
        "0: part0", "1: part1", "2: part2", "3: part3", "4: part4", "5: head"
    ]  # fmt: skip
    assert [centre for _, centre, *_ in parts] == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert [(text, centre) for text, centre, *_ in blocks] == [
        ("0: kept", 0.5), ("1: bottleneck\nratio=0.5", 2.5), ("2: linear", 4.5), ("3: kept", 5.5)
    ]  # fmt: skip
    assert [round(width) for _, _, width, _ in blocks] == [1, 3, 1, 1]
    (axes,) = figure.axes
    dashed = [p.get_linestyle() for p in axes.patches].count("--")
    assert dashed == 2  # the kept parts


def test_shapes_stand_at_the_boundaries_and_of_the_target_where_widths_are_free() -> None:
    def shapes(figure: Figure) -> list[list[tuple[float, str]]]:
        (axes,) = figure.axes
        told = [(t.get_position(), t.get_text()) for t in axes.texts if t.get_text()[0] == "("]
        levels = sorted({y for (_, y), _ in told}, reverse=True)
        return [[(x, text) for (x, y), text in told if y == level] for level in levels]

    inner = [(index, "(8, 8, 8)") for index in range(1, 6)]
    guide = [(0, "(1, 8, 8)"), *inner, (6, "(10,)")]
    assert shapes(chain_picture(space(6), CHAIN)) == [guide]
    free = shapes(chain_picture(space(6, (1.0, 0.5)), CHAIN))
    # Behind part 4 the head is always kept, so nothing is free there.
    assert free == [guide, [(1, "(8, 8, 8)"), (4, "(4, 8, 8)")]]


def test_fifty_parts_are_drawn_in_rows_without_overlap() -> None:
    spans = [*((i, i + 3) for i in range(0, 18, 3)), (18, 30), *((i, i + 1) for i in range(30, 50))]
    architecture = Architecture(
        tuple(
            BlockChoice(Span(a, b), "keep" if b == 50 else "bottleneck", () if b == 50 else HALF)
            for a, b in spans
        )
    )
    figure = chain_picture(space(50), architecture)
    figure.canvas.draw()
    (axes,) = figure.axes
    texts = {text.get_text() for text in axes.texts}
    assert {f"{index}: part{index}" for index in range(49)} <= texts
    width, height = (inch * figure.dpi for inch in figure.get_size_inches())
    extents = [text.get_window_extent() for text in axes.texts]
    for index, one in enumerate(extents):
        assert one.x0 >= 0 and one.y0 >= 0 and one.x1 <= width and one.y1 <= height
        assert not any(one.overlaps(other) for other in extents[index + 1 :])
    assert width < 150 * 22  # a screen or two wide, not fifty parts
    for patch in axes.patches:
        label = next(t for t in axes.texts if t.get_text() == patch.get_gid())
        assert label.get_window_extent().width < patch.get_window_extent().width


def test_similarity_is_drawn_as_distance_on_a_log_scale_and_the_worst_are_named() -> None:
    curve = [
        ("similarity/1", 0, 0.99), ("align_steps", 0, 40.0), ("similarity/1", 1, 0.9),
        ("similarity/2", 1, 0.6), ("stitch_residual/2", 1, 0.3), ("val_accuracy", 0, 0.5),
    ]  # fmt: skip
    figure = similarity_picture(evaluation(CHAIN, *curve))
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    first, second = axes.lines
    assert first.get_label() == "1: bottleneck(ratio=0.5)@0.5 for parts 1-3"
    assert second.get_label() == "2: linear for part 4"
    assert list(first.get_xdata()) == [0, 1] and list(second.get_xdata()) == [1]
    assert list(first.get_ydata()) == pytest.approx([0.01, 0.1])
    assert list(second.get_ydata()) == pytest.approx([0.4])
    assert axes.get_title() == "bottlenecks, the least similar first:\n2: linear for part 4"
    assert [text.get_text() for text in axes.texts] == ["2"]
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 2


def test_what_a_logarithm_cannot_show_is_drawn_at_the_bottom() -> None:
    """The unbiased estimator may pass 1."""
    curve = [("similarity/1", 0, 1.0), ("similarity/2", 0, 1.02)]
    (axes,) = similarity_picture(evaluation(CHAIN, *curve)).axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[1e-6], [1e-6]]


def test_a_conversion_without_alignment_says_so() -> None:
    figure = similarity_picture(evaluation(CHAIN, ("val_accuracy", 0, 0.5)))
    (axes,) = figure.axes
    assert axes.get_title() == "no block was aligned"
    assert not axes.lines and not figure.legends


def test_at_most_three_bottlenecks_by_their_last_measure() -> None:
    architecture = Architecture(tuple(BlockChoice(Span(i, i + 1), "linear") for i in range(12)))
    curve = [(f"similarity/{i}", stage, 0.5 + 0.04 * (i if stage else 12 - i))
             for i in range(12) for stage in (0, 1)]  # fmt: skip
    (axes,) = similarity_picture(evaluation(architecture, *curve)).axes
    assert [line.split(":")[0] for line in axes.get_title().split("\n")[1:]] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("quality", "scale"),
    [
        (Objective("val_accuracy", "maximize"), "linear"),
        (Objective("val_perplexity", "minimize"), "log"),
    ],
)
def test_replacements_begin_at_the_guide(quality: Objective, scale: str) -> None:
    runs = {"progressive-forward": [(0, 9.0), (1, 8.0), (2, 7.0)],
            "naive-forward": [(0, 9.0), (1, math.inf), (2, 1.0)]}  # fmt: skip
    figure = replacements_picture(runs, quality)
    (axes,) = figure.axes
    assert axes.get_yscale() == scale
    assert axes.get_ylabel().startswith(quality.name)
    assert [line.get_label() for line in axes.lines] == list(runs)
    assert [list(line.get_xdata()) for line in axes.lines] == [[0, 1, 2]] * 2
    assert list(axes.lines[0].get_ydata()) == [9.0, 8.0, 7.0]
    assert math.isnan(axes.lines[1].get_ydata()[1])
    figure.canvas.draw()
    assert all(math.isfinite(limit) for limit in axes.get_ylim())


def test_a_picture_is_a_whole_png_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "chain.png"
    write_picture(chain_picture(space(6), CHAIN), path)
    pixels = image.imread(path)
    assert pixels.shape[1] == round(7.4 * 1.5 * 150)  # six parts and the margins, at 150 dots
    assert [found.name for found in path.parent.iterdir()] == ["chain.png"]
