"""The report of an empty, an unfinished and a finished search, and of one of an earlier version."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas_theseus.errors import StorageError
from nas_theseus.searches.report_page import report_page, try_report, write_report
from nas_theseus.values.registers import SECTIONS
from tests.unit.pictures.test_page import Page, refuse_what_is_not_readable
from tests.unit.searches.recorded import Recorded


def read(recorded: Recorded) -> Page:
    page = refuse_what_is_not_readable(report_page(recorded.records))
    titles = [SECTIONS[name].title for name in SECTIONS]
    assert len(page.of("section")) == len(titles) == 11
    assert all(title in page.text for title in titles)
    return page


def test_an_empty_search_says_so_in_every_section(tmp_path: Path) -> None:
    page = read(Recorded(tmp_path))
    assert "This search has begun, and has no result yet." in page.text
    assert page.of("figure") == []


def test_an_unfinished_search_shows_what_is_there(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    recorded.begin()
    page = read(recorded)
    assert "has not finished: it runs, or was interrupted. So far 3 candidates" in page.text
    assert "none are recorded here" in page.text  # random architectures
    assert "Predictions need 8 finished candidates; 3 have finished." in page.text
    assert "guide" in page.text and page.of("figure")


def test_a_finished_search_has_every_section(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    recorded.finish()
    page = read(recorded)
    assert "has finished: 10 candidates finished, 2 were stopped early and 3 failed." in page.text
    assert "head<1>" in page.text and "not finite & gone" in page.text
    every = recorded.records
    for outcome in (*every.evaluations, *every.stopped):
        assert outcome.architecture.id in page.text
    # No plot without its numbers: a table follows in the same section.
    places = [tag for tag, _ in page.tags if tag in ("section", "figure", "table")]
    for index, tag in enumerate(places):
        if tag == "figure":
            rest = places[index:]
            end = rest.index("section") if "section" in rest else len(rest)
            assert "table" in rest[:end]


def test_a_search_of_an_earlier_version_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    recorded.finish()
    recorded.folder.basis_file.unlink()
    page = read(recorded)
    assert "The reference is the worst values of this search" in page.text
    assert [rung.name for rung in recorded.records.rungs] == ["epoch_1"]
    assert "guide" in page.text


def test_the_file_is_written_where_it_is_wanted(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    path = write_report(recorded.records)
    assert path == recorded.folder.folder / "report.html"
    elsewhere = write_report(recorded.records, tmp_path / "new" / "page.html")
    assert elsewhere.read_bytes() == path.read_bytes()
    with pytest.raises(StorageError, match="is a folder; give a file, such as .*report.html"):
        write_report(recorded.records, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*page\.html"):
        write_report(recorded.records, tmp_path / "file" / "page.html")


def test_a_report_that_fails_costs_nothing_else(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    said: list[str] = []
    path = try_report(recorded.folder, said.append)
    assert path is not None and path.exists() and said == []
    path.unlink()
    path.mkdir()
    assert try_report(recorded.folder, said.append) is None
    assert said[0].startswith("the report could not be written: StorageError: ")
