"""Pictures of a front: what is drawn, where, and that files are whole."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from matplotlib import image

from nas_theseus.errors import StorageError
from nas_theseus.estimate.spread import Spread
from nas_theseus.pictures.axes import words
from nas_theseus.pictures.of_search import front_figure, switching_picture, write_front
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.goals import Objective
from nas_theseus.values.outcomes import Cost, Evaluation

ACCURACY = Objective("val_accuracy", "maximize")
MACS = Objective("macs", "minimize", log=True)
LATENCY = Objective("latency_ms", "minimize")


def evaluation(
    width: int, accuracy: float, macs: int, latency_ms: float | None = None
) -> Evaluation:
    choice = BlockChoice(Span(0, 2), "mlp", (("hidden", width), ("note", "<b>&")))
    measured = {} if latency_ms is None else {"latency_ms": latency_ms}
    return Evaluation(
        architecture=Architecture((choice,)),
        recipe="full",
        seed=1,
        metrics={"val_accuracy": accuracy},
        cost=Cost({"macs": macs, "params": 10, **measured}),
        train_macs_spent=0,
        seconds=1.0,
    )


ALL = [
    evaluation(1, 0.7, 100),
    evaluation(2, 0.9, 10_000),
    evaluation(3, 0.8, 1_000),
    evaluation(4, 0.5, 5_000),
]
FRONT = {item.architecture.id for item in ALL[:3]}


def test_front_is_connected_in_order_of_cost() -> None:
    figure = front_figure(ALL, FRONT, (ACCURACY, MACS), "search a<b")
    others, front = figure.data
    assert (list(front.x), list(front.y)) == ([100, 1_000, 10_000], [0.7, 0.8, 0.9])
    assert (list(others.x), list(others.y)) == ([5_000], [0.5])
    assert front.mode == "lines+markers"
    assert others.mode == "markers"
    assert others.opacity < 1
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.yaxis.type == "linear"
    assert figure.layout.xaxis.title.text == "multiply-adds, MACs (less is better)"
    assert figure.layout.yaxis.title.text == "validation accuracy, % (more is better)"
    assert figure.layout.title.text == "search a&lt;b"


def test_hover_tells_all_values_and_escapes() -> None:
    [text] = front_figure(ALL, FRONT, (ACCURACY, MACS), "").data[0].hovertext
    assert ALL[3].architecture.id in text
    assert "0: mlp(hidden=4, note=" in text and " for parts 0-1<br>" in text
    assert "hidden=4" in text
    assert "val_accuracy = 0.5" in text
    assert "macs = 5,000" in text
    assert "note=&lt;b&gt;&amp;" in text


@pytest.mark.parametrize(
    ("objectives", "axes"),
    [
        ((LATENCY, ACCURACY, MACS), ("latency_ms", "val_accuracy")),
        ((MACS, LATENCY), ("macs", "latency_ms")),
        ((ACCURACY,), ("macs", "val_accuracy")),
        ((MACS,), ("macs", "macs")),
        ((ACCURACY, Objective("val_loss", "minimize")), ("val_loss", "val_accuracy")),
    ],
)
def test_axes(objectives: tuple[Objective, ...], axes: tuple[str, str]) -> None:
    layout = front_figure(ALL, FRONT, objectives, "").layout
    titles = [axis.title.text for axis in (layout.xaxis, layout.yaxis)]
    assert [title.rpartition(" (")[0] for title in titles] == [words(name) for name in axes]


def test_the_guide_and_the_spread_over_seeds_are_marked() -> None:
    spreads = {ALL[2].architecture.id: Spread((0.78, 0.8, 0.82)), "other": Spread((0.1, 0.2))}
    guide = {"val_accuracy": 0.95, "macs": 20_000.0}
    figure = front_figure(ALL, FRONT, (ACCURACY, MACS), "", guide=guide, spreads=spreads)
    bars, star = figure.data[2:]
    assert (list(bars.x), list(bars.y)) == ([1_000], [pytest.approx(0.8)])
    assert list(bars.error_y.array) == [pytest.approx(0.02)]
    assert "0.8 ± 0.02 (3 seeds)" in bars.hovertext[0]
    assert (star.name, list(star.x), list(star.y)) == ("guide", [20_000], [0.95])
    unknown = front_figure(ALL, FRONT, (ACCURACY, MACS), "", guide={"macs": 20_000.0})
    assert [trace.name for trace in unknown.data] == ["evaluations", "front"]


def test_the_print_has_the_same_marks(tmp_path: Path) -> None:
    given = ALL, FRONT, (ACCURACY, MACS), "t"
    plain = write_front(tmp_path, *given)[1].read_bytes()
    spreads = {ALL[2].architecture.id: Spread((0.7, 0.8, 0.9))}
    guide = {"val_accuracy": 0.95, "macs": 20_000.0}
    marked = write_front(tmp_path, *given, guide=guide, spreads=spreads)[1].read_bytes()
    assert marked != plain


def test_what_cannot_be_drawn_is_counted() -> None:
    more = [*ALL, evaluation(5, float("nan"), 10), evaluation(6, 0.5, 0)]
    figure = front_figure(more, FRONT, (ACCURACY, MACS), "t")
    assert sum(len(trace.x) for trace in figure.data) == 4
    assert figure.layout.title.text == "t (2 without macs or val_accuracy not shown)"
    none = front_figure(ALL, FRONT, (ACCURACY, LATENCY), "t")
    assert none.layout.title.text.startswith("t (4 without latency_ms")


def test_no_objective() -> None:
    with pytest.raises(ValueError, match="objectives"):
        front_figure(ALL, FRONT, (), "")


def test_files_are_whole_and_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    page, picture = write_front(folder, ALL, FRONT, (ACCURACY, MACS), "costs $5 to $6")
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"<script[^>]*\ssrc=", text)  # opens without a network
    assert json.dumps(ALL[0].architecture.id) in text
    pixels = image.imread(picture)
    assert pixels.shape[:2] == (675, 1050)  # 4.5 x 7 inches at 150 dots
    before = picture.read_bytes()
    write_front(folder, ALL[:2], FRONT, (ACCURACY, MACS), "t")
    assert picture.read_bytes() != before
    assert sorted(path.name for path in folder.iterdir()) == ["front.html", "front.png"]


def test_empty_search_is_drawn(tmp_path: Path) -> None:
    for path in write_front(tmp_path, [], set(), (ACCURACY, MACS), "empty"):
        assert path.stat().st_size > 1000


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"front\.html"):
        write_front(tmp_path / "file", ALL, FRONT, (ACCURACY, MACS), "t")


def test_networks_of_a_switching_net_are_drawn_with_their_anchors() -> None:
    rows = [
        {"macs": macs, "val_accuracy": macs / 100, "anchor": macs != 50} for macs in (40, 50, 60)
    ]
    (axes,) = switching_picture(rows, "val_accuracy", "$a$").axes
    stitches, anchors = axes.lines
    assert list(stitches.get_xdata()) == [50] and list(anchors.get_ydata()) == [0.4, 0.6]
    assert axes.get_ylabel() == "validation accuracy, %" and axes.get_title() == "$a$"
