"""The report, and Optuna's dashboard on the study, in a real browser, after one real search.

With NAS_THESEUS_SCREENSHOTS=FOLDER the search is that of the quick start, and pictures of the pages
are saved in the folder, as the documentation has them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import nas_theseus
from nas_theseus.api.reporting import report
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_files import read_outcomes
from nas_theseus.values.architecture_words import in_words
from tests.conftest import TOY_SPACE
from tests.integration.browser import (
    DESKTOP,
    PHONE,
    SCREENSHOTS,
    Browser,
    chromium,
    free_port,
    server,
)

pytestmark = pytest.mark.timeout(900)

QUICK_START = Path(__file__).resolve().parents[2] / "search_spaces" / "digits.py"
# One limit that some architectures break, and epochs enough for rungs.
LIMITED = TOY_SPACE.replace("recipe=Recipe(epochs=1,", "recipe=Recipe(epochs=2,").replace(
    'keep=["head"],', 'keep=["head"],\n        constraints=["macs <= 50e3"],'
)


@dataclass(frozen=True)
class Found:
    """A finished search, and its report."""

    search: SearchFolder
    report: Path


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("pages")
    space, trials = folder / "digits.py", 9
    if os.environ.get(SCREENSHOTS):
        shutil.copy(QUICK_START, space)
        trials = 14
    else:
        space.write_text(LIMITED)
    nas_theseus.search(
        space,
        trials=trials,
        storage=folder / "theseus",
        executor="inline",
        trackers=["json-lines"],
    )
    page = folder / "theseus" / "searches" / "digits" / "report.html"
    written = page.read_bytes()
    assert report("digits", storage=folder / "theseus").path == page
    assert page.read_bytes() == written  # the command writes what the search wrote
    return Found(SearchFolder(folder / "theseus", "digits"), page)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


def luminance(colour: str) -> float:
    """Of ``rgb(r, g, b)``, from 0 to 1. Source: WCAG 2.2, relative luminance."""
    numbers = colour[colour.index("(") + 1 : colour.index(")")].split(",")[:3]
    shares = [int(number) / 255 for number in numbers]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, from 1 to 21."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


COLOURS = """
const of = (element, name) => getComputedStyle(element)[name];
return [of(document.body, 'backgroundColor'), of(document.body, 'color'),
  of(document.querySelector('main a, nav a'), 'color'),
  of(document.querySelector('caption'), 'color'),
  of(document.querySelector('.plot .xtick text'), 'fill')];
"""
FIGURES = """
return [...document.querySelectorAll('figure')].map(figure => ({
  paths: figure.querySelectorAll('svg path, svg image').length,
  name: figure.querySelector('[role=img]')?.getAttribute('aria-labelledby'),
  caption: figure.querySelector('figcaption').innerText,
  width: figure.getBoundingClientRect().right,
}));
"""
WIDE = "return [document.documentElement.scrollWidth, window.innerWidth]"
FOCUS = """
const at = document.activeElement, style = getComputedStyle(at);
return {tag: at.tagName, kind: at.className, name: at.getAttribute('aria-label') || at.innerText,
  outline: parseFloat(style.outlineWidth) * (style.outlineStyle !== 'none')};
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, (360, 740), DESKTOP], ids=["phone", "small", "desktop"])
def test_the_report_is_readable(
    browser: Browser, found: Found, size: tuple[int, int], dark: bool
) -> None:
    address = found.report.as_uri()
    browser.resize(size, dark)
    browser.open(address)
    figures: list[dict[str, Any]] = browser.run(FIGURES)
    assert len(figures) >= 6
    assert all(one["paths"] > 2 and one["name"] and one["caption"] for one in figures)
    wide, window = browser.run(WIDE)
    assert window == size[0] and wide <= window
    assert max(one["width"] for one in figures) <= window
    back, *others = browser.run(COLOURS)
    assert (luminance(back) < 0.1) == dark
    assert all(contrast(back, colour) >= 4.5 for colour in others), (back, others)
    assert browser.messages() == []
    asked = browser.requests()
    assert asked[0] == address
    assert all(one == address or one.startswith(("data:", "blob:")) for one in asked)
    if size != (360, 740):
        name = "phone" if size == PHONE else "desktop"
        browser.run("document.querySelector('figure').scrollIntoView({block: 'center'})")
        browser.picture(f"report-{name}{'-dark' if dark else ''}")


def test_the_report_is_read_by_keyboard(browser: Browser, found: Found) -> None:
    browser.resize(DESKTOP)
    browser.open(found.report.as_uri())
    browser.press("tab")
    first = browser.run(FOCUS)
    assert first["name"] == "Skip to the content" and first["outline"] >= 2
    browser.press("enter")
    assert browser.run("return document.activeElement.id") == "content"
    tables = "return document.querySelectorAll('main .wide').length"
    # Long tables are closed at first: Enter on their heading opens them.
    closed = browser.run("return document.querySelectorAll('details:not([open])').length")
    reached: list[str] = []
    for _ in range(browser.run("return document.querySelectorAll('a, .wide, summary').length") + 5):
        browser.press("tab")
        at = browser.run(FOCUS)
        if at["tag"] == "BODY":
            break
        assert at["outline"] >= 2, at
        if at["tag"] == "SUMMARY":
            browser.press("enter")
            closed -= 1
        if at["kind"] == "wide":
            reached.append(at["name"])
    assert closed == 0
    assert len(reached) == len(set(reached)) == browser.run(tables) >= 6


def test_colours_follow_the_reader_who_changes_them(browser: Browser, found: Found) -> None:
    browser.resize(PHONE)
    browser.open(found.report.as_uri())
    light = browser.run(COLOURS)
    browser.resize(PHONE, dark=True)
    browser.wait(lambda: browser.run(COLOURS)[-1] != light[-1], 20)  # the ticks of a plot
    assert browser.messages() == []


@pytest.fixture(scope="module")
def dashboard(found: Found, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    port = free_port()
    program = Path(sys.executable).with_name("optuna-dashboard")
    command = [str(program), str(found.search.journal), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--server", "wsgiref"]
    log = tmp_path_factory.mktemp("dashboard") / "log"
    with server(command, f"http://127.0.0.1:{port}/api/studies", log) as address:
        yield address


def fetched(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return json.load(answer)


def test_the_dashboard_knows_names_limits_and_words(dashboard: str, found: Found) -> None:
    (study,) = fetched(f"{dashboard}/api/studies")["study_summaries"]
    assert study["study_name"] == "digits"
    detail = fetched(f"{dashboard}/api/studies/{study['study_id']}")
    assert detail["objective_names"] == ["val_accuracy", "macs"]
    assert detail["directions"] == ["maximize", "minimize"]
    words = {one.architecture.id: in_words(one.architecture) for one in read_outcomes(found.search)}
    limits, said = 0, {}
    for trial in detail["trials"]:
        marks = {one["key"]: one["value"] for one in trial["user_attrs"]}
        limits += "macs <= 50000: " in marks.get("limits", "")
        said[marks["theseus:architecture"]] = marks["architecture"]
    assert {name: said[name] for name in words} == words
    if not os.environ.get(SCREENSHOTS):
        assert limits >= len(words)
    assert detail["best_trials"]


def test_the_dashboard_shows_names_and_words(
    browser: Browser, dashboard: str, found: Found
) -> None:
    (study,) = fetched(f"{dashboard}/api/studies")["study_summaries"]
    detail = fetched(f"{dashboard}/api/studies/{study['study_id']}")
    best = detail["best_trials"][0]
    words = next(one["value"] for one in best["user_attrs"] if one["key"] == "architecture")
    browser.resize((1400, 900))
    page = f"{dashboard}/dashboard/studies/{study['study_id']}"
    browser.open(f"{page}/trials?numbers={best['number']}")
    browser.wait(lambda: words in browser.text)
    browser.open(page)
    everything = "return document.body.textContent"
    browser.wait(lambda: "val_accuracy" in browser.run(everything))
    browser.picture("optuna-dashboard")
