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

from nas_theseus.api.switch import load_switching
from nas_theseus.cli.app import make_app
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.stitching.cells import CONTROLS
from nas_theseus.tasks.score import score

SPACE = """
from torch import nn
from nas_theseus import Recipe, SearchSpace, cut
from nas_theseus.blocks import Keep, Linear
from nas_theseus.tasks import digits


def conv(inlet, outlet):
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, 1, 1), nn.BatchNorm2d(outlet), nn.ReLU())


def space():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    net = nn.Sequential(conv(1, 4), conv(4, 4), conv(4, 4), head)
    return SearchSpace(
        guide=cut(net, ["0", "1", "2"], (1, 8, 8)), task=digits(), keep=["0", "head"],
        blocks=[Keep(), Linear()], guide_training=Recipe(epochs=2, distill=0),
        recipe=Recipe(epochs=0.5, align_steps=4, align_examples=256),
    )
"""
COMMAND = [
    "stitch", "resnet1111", "--task", "digits", "--width", "4", "--train-epochs", "3",
    "--set", "examples=256", "--set", "score_examples=200", "--set", "epochs=0.5",
]  # fmt: skip


@pytest.mark.slow
def test_two_seeds_of_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    ended = CliRunner().invoke(make_app(), COMMAND, catch_exceptions=False)
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
    ended = CliRunner().invoke(make_app(), COMMAND, catch_exceptions=False)
    assert ended.exit_code == 0 and "1 cells to measure" in ended.output
    again = {path: path.stat().st_mtime_ns for path in (folder / "cells").glob("*.json")}
    assert {path for path in again if again[path] != cells[path]} == {lost}


def test_the_front_of_a_search_becomes_one_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / "small.py").write_text(SPACE)
    search = ["search", "small.py", "--trials", "4", "--suggestions", "2"]
    ended = CliRunner().invoke(make_app(), search, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    assert "blocks stitched into the guide suggest 2 trials" in ended.output
    switch = ["switch", "small", "--set", "epochs=0.5", "--set", "batch_size=64"]
    ended = CliRunner().invoke(make_app(), switch, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    storage = SearchFolder(tmp_path / "theseus", "small")
    folder = storage.folder / "switching"
    table = json.loads((folder / "networks.json").read_text())
    assert table["anchors"][-1] == "guide"
    net = load_switching(storage)
    assert [row["macs"] for row in table["networks"]] == [c.cost.macs for c in net.configs()]
    assert any(not row["anchor"] for row in table["networks"])
    for row in table["networks"]:
        net.select(row["index"])
        assert score(net, net.task, "validation") == pytest.approx(row["val_accuracy"])
    client = MlflowClient()
    experiment = client.get_experiment_by_name("nas-theseus")
    assert experiment is not None
    (run,) = client.search_runs(
        [experiment.experiment_id], filter_string="tags.`theseus.kind` = 'switching'"
    )
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"net.safetensors", "networks.json", "networks.png"}
