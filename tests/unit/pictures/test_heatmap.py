"""Heatmaps show each matrix with its own values, and files are whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from nas_theseus.pictures.heatmap import heatmap_page, heatmap_picture, write_heatmaps

PANELS = [
    {"accuracy, a": [[0.1, None], [0.9, 0.5]], "accuracy, b": [[0.2, 0.3], [0.4, 0.6]]},
    {"CKA": [[0.0, 1.0], [-0.1, 0.3]]},
]
NAMES = ["stem", "block1"]


def test_the_page_has_every_matrix_first_row_on_top() -> None:
    figure = heatmap_page(PANELS, NAMES, ["x", "y"], "a < b")
    assert [list(trace.z) for trace in figure.data] == [m for p in PANELS for m in p.values()]
    assert figure.data[0].x == ("x", "y") and figure.data[0].y == ("stem", "block1")
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.coloraxis.cmax == 0.9 and figure.layout.coloraxis2.cmin == -0.1
    assert "a &lt; b" in figure.layout.title.text


def test_the_picture_writes_values_and_leaves_blanks() -> None:
    figure = heatmap_picture(PANELS, NAMES, ["x", "y"], "title")
    first = figure.axes[0]
    assert [text.get_text() for text in first.texts] == ["10", "90", "50"]
    assert first.images[0].get_array().mask.tolist() == [[False, True], [False, False]]


def test_files(tmp_path: Path) -> None:
    page, image = write_heatmaps(tmp_path, PANELS, NAMES, ["x", "y"], "title")
    assert "plotly" in page.read_text()[:10_000].lower()
    with Image.open(image) as picture:
        assert picture.format == "PNG" and min(picture.size) > 300
    assert sorted(p.name for p in tmp_path.iterdir()) == ["heatmap.html", "heatmap.png"]


@pytest.mark.parametrize("value", [None, 0.0])
def test_a_matrix_without_values_is_drawn(value: float | None) -> None:
    heatmap_picture([{"empty": [[value]]}], ["a"], ["b"], "title")
