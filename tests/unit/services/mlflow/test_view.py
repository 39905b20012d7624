"""A view of a search: saved as MLflow's pages read it, and named by a link."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

from nas_theseus.cli.app import make_app
from nas_theseus.errors import ServiceError
from nas_theseus.services.mlflow import MlflowTracker
from nas_theseus.services.mlflow.view import search_link
from nas_theseus.values.goals import Objective
from tests.unit.searches.recorded import Recorded

QUALITY = Objective("val_accuracy", "maximize")
COSTS = [Objective("latency_ms", "minimize"), Objective("params", "minimize")]


def test_the_link_names_a_view_that_is_saved_with_the_experiment(
    new: Callable[..., MlflowTracker], uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ServiceError, match=r"no run of search 'first'; is MLFLOW_TRACKING_URI"):
        search_link("http://127.0.0.1:5000", "first", "first", QUALITY, COSTS)
    tracker = new()
    tracker.begin({"trials": 1})
    assert tracker.end() == 0
    link = search_link("http://127.0.0.1:5000/", "first", "first", QUALITY, COSTS)
    experiment = MlflowClient(uri).get_experiment_by_name("nas-theseus")
    address, _, query = link.partition("?")
    assert address == f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs"
    (key,) = parse_qs(query)["viewStateShareKey"]
    state = json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])
    assert state["orderByKey"] == "metrics.`latency_ms`" and state["orderByAsc"] is True
    assert state["selectedColumns"][:3] == [
        "metrics.`val_accuracy`", "metrics.`latency_ms`", "metrics.`params`",
    ]  # fmt: skip
    kinds = [chart["type"] for chart in state["compareRunCharts"]]
    assert kinds == ["SCATTER", "SCATTER", "PARALLEL"]
    assert state["compareRunCharts"][2]["selectedMetrics"][-1] == "val_accuracy"
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == sections


def test_the_command_ui_prints_the_link_of_a_search(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(os, "execv", lambda *arguments: None)  # the server, which would stay
    Recorded(tmp_path).finish()
    tracker = MlflowTracker("small", tmp_path / "out", tmp_path / "runs.json", identity="me")
    tracker.begin({"trials": 1})
    assert tracker.end() == 0

    def ui(*arguments: str) -> str:
        found = CliRunner().invoke(make_app(), ["ui", *arguments, "--port", "0"])
        assert found.exception is None, found.output
        return found.output

    said = ui("small", "--storage", str(tmp_path))
    assert "search small: http://127.0.0.1:0/#/experiments/" in said
    assert "viewStateShareKey=theseus-me&compareRunsMode=CHART" in said
    assert "the fronts: http://127.0.0.1:0/#/experiments/" in ui()
