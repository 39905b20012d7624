"""The notebooks of the documentation, run from the first cell to the last as a reader would."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "docs" / "notebooks"


@pytest.mark.parametrize(
    "name",
    [
        "vision",
        pytest.param("text", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_a_notebook_runs_from_top_to_bottom(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    script = commands / "nas-theseus"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m nas_theseus "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    assert printed and not any(output.output_type == "error" for output in outputs)
    tables = [o.data["text/html"] for o in outputs if "text/html" in o.get("data", {})]
    assert any("macs" in table for table in tables)
    if name == "vision":
        answers, truth = (
            json.loads(found) for found in re.findall(r"^(?:answers|truth): *(.*)$", printed, re.M)
        )
        given = list(zip(answers, truth, strict=True))
        assert sum(answer == right for answer, right in given) >= 5  # by chance: one
    else:
        assert "parts 0 to 0: keep" in printed


def test_notebooks_are_committed_without_outputs() -> None:
    found = sorted(NOTEBOOKS.glob("*.ipynb"))
    assert [path.stem for path in found] == ["text", "vision"]
    for path in found:
        cells = nbformat.read(path, as_version=4).cells
        code = [cell for cell in cells if cell.cell_type == "code"]
        assert len(code) > 3
        assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
