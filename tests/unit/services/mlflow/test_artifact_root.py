"""Where artifacts go is checked at the start: experiment, root and a cure that works are named."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from nas_theseus.errors import ServiceError
from nas_theseus.services.mlflow import MlflowTracker, recording
from nas_theseus.services.mlflow.artifact_root import local_root

Made = Callable[..., MlflowTracker]


@pytest.fixture
def blocked(tmp_path: Path, uri: str) -> str:
    """An experiment whose artifact root cannot be made: a file is where its folder would be."""
    (tmp_path / "file").touch()
    root = str(tmp_path / "file" / "mlruns")
    MlflowClient(uri).create_experiment("nas-theseus", artifact_location=root)
    return root


def test_a_root_that_cannot_be_written_is_refused_with_its_cure(
    new: Made, blocked: str, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tracker = new()
    with pytest.raises(ServiceError) as caught:
        tracker.begin({})
    said = str(caught.value)
    assert f"artifact root {blocked} of MLflow experiment 'nas-theseus' cannot be written" in said
    assert "Not a directory" in said and "set MLFLOW_EXPERIMENT_NAME to a new experiment" in said
    assert "Start the server" not in said  # it runs
    # The first cure.
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    second = new("second")
    second.begin({})
    assert second.end() == 0
    root = MlflowClient(uri).get_experiment_by_name("another").artifact_location
    assert Path(root).is_relative_to(tmp_path)


def test_an_experiment_made_with_another_place_cures_it_too(
    new: Made, blocked: str, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    MlflowClient(uri).create_experiment("chosen", artifact_location=str(tmp_path / "chosen"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "chosen")
    tracker = new()
    tracker.begin({})
    assert tracker.end() == 0


def test_one_conversion_is_refused_before_it_works(
    blocked: str, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with (
        pytest.raises(ServiceError, match=r"experiment 'nas-theseus' cannot be written.*or set "),
        recording("one", "conversion", {}),
    ):
        pytest.fail("the work began")


def test_a_root_that_becomes_unwritable_is_named_with_the_run(
    uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    root = tmp_path / "root"
    MlflowClient(uri).create_experiment("nas-theseus", artifact_location=str(root))
    (tmp_path / "result.txt").touch()
    with (
        pytest.raises(ServiceError, match=rf"artifact root {root} of MLflow .*They are all in"),
        recording("one", "conversion", {}) as run,
    ):
        root.rmdir()
        root.touch()
        run.keep(None, [], tmp_path, {"result.txt": None})


def test_a_lost_root_is_reported_and_a_new_one_is_not(
    new: Made, uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "old" / "mlruns"
    client = MlflowClient(uri)
    client.create_experiment("nas-theseus", artifact_location=root.as_uri())
    with caplog.at_level(logging.WARNING, "nas_theseus"):
        first = new()
        first.begin({})
        assert first.end() == 0
    assert caplog.records == []  # a new experiment, whose folder is made at first use
    (tmp_path / "old").rename(tmp_path / "moved")
    with caplog.at_level(logging.WARNING, "nas_theseus"):
        second = new("second")
        second.begin({})
        assert second.end() == 0
    (record,) = caplog.records
    assert f"'nas-theseus' has runs, but its artifact root {root} did not exist" in record.message
    assert "set MLFLOW_EXPERIMENT_NAME to a new experiment" in record.message


@pytest.mark.parametrize(
    ("location", "root"),
    [
        ("/a/b c", Path("/a/b c")),
        ("file:///a/b%20c", Path("/a/b c")),
        ("mlruns/1", Path("mlruns/1")),
        ("s3://bucket/1", None),
        ("mlflow-artifacts:/1", None),
    ],
)
def test_only_local_roots_are_looked_at(location: str, root: Path | None) -> None:
    assert local_root(location) == root
