"""``nas-theseus report``: on an empty, an unfinished, a finished and an unknown search."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nas_theseus.cli.app import make_app
from nas_theseus.errors import StorageError
from tests.unit.pictures.test_page import refuse_what_is_not_readable
from tests.unit.searches.recorded import Recorded


def report(*arguments: str | Path) -> Result:
    return CliRunner().invoke(make_app(), ["report", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (None, "has begun, and has no result yet"),
        ("begin", "has not finished: it runs, or was interrupted. So far 3 candidates finished"),
        ("finish", "has finished: 10 candidates finished, 2 were stopped early and 3 failed"),
    ],
)
def test_it_says_what_is_there_and_where_the_report_is(
    stage: str | None, said: str, tmp_path: Path
) -> None:
    recorded = Recorded(tmp_path)
    if stage is not None:
        getattr(recorded, stage)()
    result = report("small", "--storage", tmp_path)
    assert result.exit_code == 0, result.output
    path = tmp_path / "searches" / "small" / "report.html"
    assert said in result.output and f"report: {path}" in result.output
    page = refuse_what_is_not_readable(path.read_text(encoding="utf-8"))
    assert said in page.text


def test_an_unknown_search_and_another_file(tmp_path: Path) -> None:
    Recorded(tmp_path)
    out = tmp_path / "mine.html"
    assert report("small", "--storage", tmp_path, "--out", out).exit_code == 0 and out.exists()
    result = report("other", "--storage", tmp_path)
    assert isinstance(result.exception, StorageError)
    assert "no search 'other'" in str(result.exception)
