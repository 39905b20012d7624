"""A page: well formed, closed to the network, readable by keyboard and without the plots."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from nas_theseus.pictures.page import (
    Box,
    Chain,
    Chapter,
    Heading,
    Link,
    Paragraph,
    Plot,
    Table,
    html_page,
)

_VOID = {"meta", "br", "hr", "img", "input", "link"}
EVIL = '</script><b onclick="x">&'


class Page(HTMLParser):
    """Reads a page, and refuses tags that do not close in order.

    Attributes:
        tags: of every element, its name and attributes, in order.
        text: what a reader sees, without scripts and styles.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), attrs
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def refuse_what_is_not_readable(text: str) -> Page:
    """Well formed, no address of another place, every link leads somewhere, every plot is named."""
    page = Page(text)
    own = text.replace(get_plotlyjs(), "")
    assert "://" not in own and not re.search(r"@import|url\(", own)
    assert [tag for tag in ("link", "iframe", "img", "object", "base") if page.of(tag)] == []
    assert all("src" not in attributes for _, attributes in page.tags)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in page.of("a")} <= {f"#{name}" for name in ids}
    assert {meta.get("name") for meta in page.of("meta")} >= {"viewport", "color-scheme"}
    assert "default-src 'none'" in text and "prefers-color-scheme: dark" in text
    assert page.of("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and 1 not in levels[1:]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    # What scrolls sideways is reached by keyboard.
    boxes = [one for one in page.of("div") if one.get("class") == "wide"]
    assert all(one["tabindex"] == "0" and one["aria-label"] for one in boxes)
    assert len(page.of("figcaption")) == len(page.of("figure")) == own.count("\ndraw(")
    return page


def test_every_piece_is_written_and_nothing_in_it_becomes_html() -> None:
    figure = go.Figure(go.Scatter(x=[1], y=[2], name=EVIL))
    pieces = [
        Heading(f"part {EVIL}", "part-1"),
        Paragraph(f"text {EVIL}"),
        Table(f"caption {EVIL}", ["a", EVIL], [[Link(f"to {EVIL}", "part-1"), "1"]]),
        Plot(figure, f"figure {EVIL}"),
        Chain(f"chain {EVIL}", [Box(f"box {EVIL}", "under", 2, True)]),
    ]
    text = html_page(f"title {EVIL}", [Paragraph("first")], [Chapter("One", "one", pieces)])
    page = refuse_what_is_not_readable(text)
    for word in ("part", "text", "caption", "to", "figure", "box", "title"):
        assert f"{word} {EVIL}" in page.text
    assert not page.of("b") or all("onclick" not in one for one in page.of("b"))
    (data,) = re.findall(r'\ndraw\("plot-1", (.*)\);\n', text)
    assert json.loads(data)["data"][0]["name"] == EVIL
    assert json.loads(data)["layout"]["height"] == 380


def test_a_page_without_plots_is_small() -> None:
    text = html_page("t", [], [Chapter("One", "one", [Paragraph("p")])])
    refuse_what_is_not_readable(text)
    assert len(text) < 10_000


def test_long_tables_are_closed_at_first() -> None:
    for rows, closed in ((15, 0), (16, 1)):
        table = Table("many", ["a"], [[str(row)] for row in range(rows)])
        page = refuse_what_is_not_readable(html_page("t", [], [Chapter("One", "one", [table])]))
        assert len(page.of("details")) == closed
        assert (f"many ({rows} rows)" in page.text) == bool(closed)


def test_numbers_stay_with_their_unit_and_long_texts_wrap() -> None:
    table = Table("t", ["a", "b", "c"], [["1", "12.3 min", "keep | basic(width=0.5)"]])
    page = refuse_what_is_not_readable(html_page("t", [], [Chapter("One", "one", [table])]))
    assert [cell.get("class") for cell in page.of("td")] == ["whole", None]


def test_a_plot_is_a_picture_whose_name_is_its_caption() -> None:
    plot = Plot(go.Figure(go.Scatter(x=[1], y=[2])), "what it shows")
    text = html_page("t", [], [Chapter("One", "one", [plot])])
    page = refuse_what_is_not_readable(text)
    (picture,) = (one for one in page.of("div") if one.get("role") == "img")
    (caption,) = page.of("figcaption")
    assert picture["aria-labelledby"] == caption["id"]
    assert "aria-hidden" not in picture


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="table 'sums' has 1 cells, not 2"):
        Table("sums", ["a", "b"], [["1"]])
