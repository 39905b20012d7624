"""One self-contained HTML page: headings, text, tables and plots; read without a network.

The page adapts to phones and to dark mode, and works by keyboard alone. Every number of a plot must
also be in a table or in text beside it: screen readers read a plot's caption only.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import plotly.graph_objects as go  # type: ignore[import-untyped]
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

# Tables with more rows are closed at first.
_OPEN_ROWS = 15
# Longest text of a cell that stays in one line, such as "12.3 min".
_WHOLE = 12


@dataclass(frozen=True)
class Link:
    """A cell that leads to a heading of the same page.

    Attributes:
        anchor: of the heading.
    """

    text: str
    anchor: str


Cell: TypeAlias = str | Link


@dataclass(frozen=True)
class Heading:
    """A heading inside a chapter.

    Attributes:
        anchor: what links to it name; unique on the page.
    """

    text: str
    anchor: str


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Raises:
        ValueError: a row has another number of cells than there are columns.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"a row of table {self.caption!r} has {len(row)} cells, not "
                    f"{len(self.columns)}: {row}"
                )


@dataclass(frozen=True)
class Plot:
    """A plotly figure without a title of its own.

    Attributes:
        caption: what it shows, and where its numbers stand as text.
        height: in pixels of the screen.
    """

    figure: go.Figure
    caption: str
    height: int = 380


@dataclass(frozen=True)
class Box:
    """One box of a chain.

    Attributes:
        text: what stands in it.
        under: smaller text below.
        length: how wide it is drawn, as a multiple of the narrowest.
        faint: whether it is drawn as unchanged.
    """

    text: str
    under: str
    length: int = 1
    faint: bool = False


@dataclass(frozen=True)
class Chain:
    """Boxes in order, from the inlet to the outlet of a network."""

    label: str
    boxes: Sequence[Box]


Piece: TypeAlias = Heading | Paragraph | Table | Plot | Chain


@dataclass(frozen=True)
class Chapter:
    """One part of the page, which the list at its top links to.

    Attributes:
        anchor: what links to it name; unique on the page.
    """

    title: str
    anchor: str
    pieces: Sequence[Piece]


def html_page(title: str, opening: Sequence[Piece], chapters: Sequence[Chapter]) -> str:
    """The whole page, plotly's program included if there is a plot.

    Args:
        opening: what stands before the list of chapters.
    """
    writer = _Writer()
    first = "\n".join(map(writer.piece, opening))
    links = "\n".join(
        f'<li><a href="#{_text(one.anchor)}">{_text(one.title)}</a></li>' for one in chapters
    )
    rest = "\n".join(map(writer.chapter, chapters))
    program = f"<script>{get_plotlyjs()}</script>" if writer.figures else ""
    plots = "\n".join(writer.figures)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{_text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<h1>{_text(title)}</h1>
{first}
</header>
<nav aria-label="Chapters">
<ul>
{links}
</ul>
</nav>
<main id="content" tabindex="-1">
{rest}
</main>
{program}
<script>
{_PAINT}
{plots}
</script>
</body>
</html>
"""


class _Writer:
    """Writes pieces as HTML, and collects the program of the plots.

    Attributes:
        figures: one statement a plot.
    """

    def __init__(self) -> None:
        self.figures: list[str] = []

    def chapter(self, chapter: Chapter) -> str:
        inside = "\n".join(map(self.piece, chapter.pieces))
        name = _text(chapter.anchor)
        return (
            f'<section aria-labelledby="{name}">\n<h2 id="{name}">{_text(chapter.title)}</h2>\n'
            f"{inside}\n</section>"
        )

    def piece(self, piece: Piece) -> str:
        match piece:
            case Heading():
                return f'<h3 id="{_text(piece.anchor)}">{_text(piece.text)}</h3>'
            case Paragraph():
                return f"<p>{_text(piece.text)}</p>"
            case Table():
                return _table(piece)
            case Chain():
                return _chain(piece)
            case Plot():
                return self._plot(piece)

    def _plot(self, plot: Plot) -> str:
        name = f"plot-{len(self.figures) + 1}"
        figure = go.Figure(plot.figure)
        figure.update_layout(
            title=None,
            template="none",
            height=plot.height,
            dragmode=False,  # so that a finger on a plot scrolls the page
            margin={"l": 10, "r": 10, "t": 10, "b": 10},
            legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        )
        figure.update_xaxes(automargin=True)
        figure.update_yaxes(automargin=True)
        # So that no text in the figure can end the script.
        text = figure.to_json().replace("<", "\\u003c")
        self.figures.append(f'draw("{name}", {text});')
        return (
            f'<figure>\n<div class="plot" id="{name}" role="img" '
            f'aria-labelledby="{name}-caption" style="min-height: {plot.height}px"></div>\n'
            f'<figcaption id="{name}-caption">{_text(plot.caption)}</figcaption>\n</figure>'
        )


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _cell(cell: Cell) -> str:
    if isinstance(cell, Link):
        return f'<a href="#{_text(cell.anchor)}">{_text(cell.text)}</a>'
    return _text(cell)


def _kept_whole(cell: Cell) -> str:
    """Attribute of a cell that is not broken into lines: numbers stay with their unit."""
    text = cell.text if isinstance(cell, Link) else cell
    return ' class="whole"' if len(text) <= _WHOLE else ""


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in table.columns)
    rows = "\n".join(
        f'<tr><th scope="row">{_cell(row[0])}</th>'
        + "".join(f"<td{_kept_whole(cell)}>{_cell(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    caption = _text(table.caption)
    # A wide table scrolls in a box of its own, which the keyboard can reach.
    inside = (
        f'<div class="wide" tabindex="0" role="region" aria-label="{caption}">\n'
        f"<table>\n<caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )
    if len(table.rows) <= _OPEN_ROWS:
        return inside
    summary = f"{caption} ({len(table.rows)} rows)"
    return f"<details>\n<summary>{summary}</summary>\n{inside}\n</details>"


def _chain(chain: Chain) -> str:
    boxes = "\n".join(
        f'<li class="{"faint" if box.faint else "new"}" style="flex-grow: {box.length}">'
        f"<b>{_text(box.text)}</b> <small>{_text(box.under)}</small></li>"
        for box in chain.boxes
    )
    return f'<ol class="chain" aria-label="{_text(chain.label)}">\n{boxes}\n</ol>'


# The browser itself refuses to load anything from elsewhere.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)

_STYLE = """
:root { --back: #ffffff; --ink: #1f2933; --faint: #52606d; --line: #cbd2d9; --box: #f0f2f5;
  --link: #9a3412; }
@media (prefers-color-scheme: dark) { :root { --back: #14181d; --ink: #e4e7eb; --faint: #9fb0c0;
  --line: #3e4c59; --box: #222a33; --link: #fdba74; } }
* { box-sizing: border-box; }
body { background: var(--back); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif;
  margin: 0 auto; max-width: 62rem; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { border-top: 1px solid var(--line); margin-top: 2.5rem; padding-top: 1rem; }
h2, h3 { line-height: 1.25; scroll-margin-top: 1rem; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip { left: -99rem; position: absolute; }
.skip:focus { background: var(--back); left: 1rem; padding: .5rem; position: fixed; top: 1rem;
  z-index: 9; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; list-style: none; padding: 0; }
nav a { display: inline-block; padding: .35rem 0; }
figure { margin: 1rem 0; }
figcaption, caption, small { color: var(--faint); font-size: .875rem; }
caption { padding: .25rem 0; text-align: left; }
.wide { margin: 1rem 0; overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: right;
  vertical-align: top; }
td.whole { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { vertical-align: bottom; }
summary { cursor: pointer; padding: .5rem 0; }
.chain { display: flex; flex-wrap: wrap; gap: .25rem; list-style: none; padding: 0; }
.chain li { background: var(--box); border: 2px solid var(--link); border-radius: .4rem;
  flex-basis: 7rem; padding: .35rem .5rem; }
.chain li.faint { border: 1px dashed var(--line); }
.chain b, .chain small { display: block; }
@media (max-width: 40rem) { body { padding: .75rem; } h1 { font-size: 1.3rem; } }
@media print { nav, .skip { display: none; } }
"""

# Colours of plots follow those of the page, also when dark mode is switched on or off.
_PAINT = """
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function colours() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim();
  const line = style.getPropertyValue("--line").trim();
  const axis = { gridcolor: line, linecolor: line, zerolinecolor: line };
  return { axis, layout: { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink } } };
}
function painted(layout) {
  const now = colours();
  const all = Object.assign({}, layout, now.layout);
  for (const name of Object.keys(layout)) {
    if (/^[xy]axis/.test(name)) all[name] = Object.assign({}, layout[name], now.axis);
  }
  return all;
}
const drawn = [];
function draw(name, figure) {
  const options = { responsive: true, displaylogo: false, plotlyServerURL: "",
    topojsonURL: "", scrollZoom: false, displayModeBar: false };
  drawn.push([name, figure]);
  Plotly.newPlot(name, figure.data, painted(figure.layout), options);
}
dark.addEventListener("change", () => {
  for (const [name, figure] of drawn) Plotly.react(name, figure.data, painted(figure.layout));
});
"""
