"""The command `stitch` on real data: rows through Ray, cells kept, matrices in MLflow."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image
from typer.testing import CliRunner

from nas_theseus.cli import app
from nas_theseus.stitch.cells import CONTROLS

COMMAND = [
    "stitch", "resnet1111", "--task", "digits", "--width", "4", "--train-epochs", "3",
    "--set", "examples=256", "--set", "score_examples=200", "--set", "epochs=0.5",
]  # fmt: skip


def test_two_seeds_of_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    ended = CliRunner().invoke(app, COMMAND, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    assert "sender later minus earlier" in ended.output
    (folder,) = (p for p in (tmp_path / "theseus" / "stitching").iterdir() if "--" in p.name)
    cells = {path: path.stat().st_mtime_ns for path in (folder / "cells").glob("*.json")}
    assert len(cells) == 4 * 5 * 5
    matrix = json.loads((folder / "matrix.json").read_text())
    assert set(matrix["quality"]) == set(CONTROLS)
    means = {
        control: statistics.fmean(v for row in rows for v in row)
        for control, rows in matrix["quality"].items()
    }
    assert means["trained-trained"] > means["random-random"]
    for i in range(5):
        assert matrix["cka"]["trained-trained"][i][i] > 0
    with Image.open(folder / "heatmap.png") as picture:
        assert picture.format == "PNG"
    client = MlflowClient()
    experiment = client.get_experiment_by_name("nas-theseus")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["theseus.kind"] == "stitching" and run.info.status == "FINISHED"
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"matrix.json", "heatmap.html", "heatmap.png"}
    assert run.data.metrics["triangle_difference"] == pytest.approx(matrix["triangle_difference"])
    # One cell lost: the same command measures it alone.
    lost = next(iter(cells))
    lost.unlink()
    ended = CliRunner().invoke(app, COMMAND, catch_exceptions=False)
    assert ended.exit_code == 0 and "1 cells to measure" in ended.output
    again = {path: path.stat().st_mtime_ns for path in (folder / "cells").glob("*.json")}
    assert {path for path in again if again[path] != cells[path]} == {lost}
