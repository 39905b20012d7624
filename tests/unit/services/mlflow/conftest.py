"""An MLflow on SQLite of each test's own, and trackers that write to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from nas_theseus.services.mlflow import MlflowTracker
from nas_theseus.services.mlflow import tracker as tracker_module


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: migrating takes seconds, copying none."""
    folder = tmp_path_factory.mktemp("mlflow")
    file = folder / "empty.db"
    MlflowClient(f"sqlite:///{file}").create_experiment("other", artifact_location=str(folder))
    return file


@pytest.fixture
def uri(tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    shutil.copy(migrated, tmp_path / "mlflow.db")
    # MLflow keeps artifacts of a SQLite store under the working folder.
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setattr(tracker_module, "FIRST_RETRY_S", 0.02)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def new(tmp_path: Path, uri: str) -> Iterator[Callable[..., MlflowTracker]]:
    made: list[MlflowTracker] = []

    def make(search: str = "first", tracking_uri: str = uri) -> MlflowTracker:
        folder = tmp_path / search
        tracker = MlflowTracker(
            search, folder / "outbox", folder / "runs.json", tracking_uri=tracking_uri
        )
        made.append(tracker)
        return tracker

    yield make
    for tracker in made:
        tracker.end("KILLED", timeout_s=0)
