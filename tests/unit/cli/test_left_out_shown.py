"""What a space leaves out is shown by `check` and at the start of a search."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from nas_theseus.api import search
from nas_theseus.cli.app import make_app
from nas_theseus.space.left_out import REMEDY
from tests.unit.space.odd_sizes import write


def test_check_prints_them(tmp_path: Path) -> None:
    path = write(tmp_path, "(7, 9)", "Basic(), Depthwise()")
    result = CliRunner().invoke(make_app(), ["check", str(path)], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    assert "no mistakes; 9 architectures" in result.output
    assert "blocks basic, depthwise left out of parts low, high: needs a whole" in result.output
    assert REMEDY in result.output


def test_a_search_says_them_at_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StopError(Exception):
        pass

    def stop(*_: object) -> None:
        raise StopError

    lines: list[str] = []

    class Reporter:
        def say(self, line: str) -> None:
            lines.append(line)

    path = write(tmp_path, "(7, 9)", "Basic()")
    monkeypatch.chdir(tmp_path)
    settings = search.settings_of(path, {"storage": tmp_path / "theseus"}, "search")
    monkeypatch.setattr(search.Launch, "run", stop)
    with pytest.raises(StopError):
        search.run_search(search.gather(path), settings, Reporter())  # type: ignore[arg-type]
    assert lines[0].startswith("block basic left out of parts low, high: needs a whole stride")
