"""Tracking when MLflow is absent, silent, busy or gone for a while: told quickly, nothing lost."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from nas_theseus.errors import ServiceError, StorageError
from nas_theseus.services.mlflow import MlflowTracker, connection, without_credentials
from nas_theseus.services.mlflow import outbox as outbox_module
from nas_theseus.services.mlflow.connection import connect
from nas_theseus.services.mlflow.search_runs import RecordError
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import Cost, Evaluation
from nas_theseus.values.tracking import FrontNow, Parameter

PARAMETERS: dict[str, Parameter] = {"trials": 4}


def architecture(width: int) -> Architecture:
    return Architecture((BlockChoice(Span(0, 3), "depthwise", (("expand", width),)),))


def evaluation(width: int) -> Evaluation:
    cost = Cost({"macs": 1_000_000 * width, "params": 1000 * width})
    return Evaluation(architecture(width), "full", 3, {"val_accuracy": 0.8}, cost, 12345, 2.5)


def runs(uri: str) -> dict[str, Run]:
    client = MlflowClient(uri)
    page = client.search_runs([client.get_experiment_by_name("nas-theseus").experiment_id])
    found = {str(run.data.tags.get("theseus.architecture", run.info.run_name)): run for run in page}
    assert len(found) == len(page), "runs are doubled"
    return found


def wait_for(condition: Callable[[], bool], limit_s: float = 30) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_busy_database_loses_nothing(
    new: Callable[..., MlflowTracker], uri: str, tmp_path: Path
) -> None:
    """The store cannot be written for a while: the search goes on, the next start delivers."""
    tracker = new()
    tracker.begin(PARAMETERS)
    wait_for(lambda: tracker.pending == 0)
    database = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    begun = time.monotonic()
    for width in range(1, 6):
        tracker.outcome(evaluation(width))
    assert time.monotonic() - begun < 1.0
    left = tracker.end(timeout_s=0.2)
    assert left == 6  # five evaluations and the search's end
    assert time.monotonic() - begun < 5.0
    assert len(list((tmp_path / "first" / "outbox").glob("*.json"))) == 6
    database.execute("ROLLBACK")
    database.close()

    again = new()
    again.begin(PARAMETERS)
    assert again.end() == 0
    found = runs(uri)
    assert len(found) == 6
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    client = MlflowClient(uri)
    for name, run in found.items():
        told = client.get_metric_history(run.info.run_id, "macs")
        assert len(told) == (name != "first")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_absent_server_is_told_quickly(new: Callable[..., MlflowTracker], scheme: str) -> None:
    address = f"{scheme}://anna:s3cret@127.0.0.1:{free_port()}/base"
    tracker = new(tracking_uri=address)
    begun = time.monotonic()
    with pytest.raises(ServiceError) as told:
        tracker.begin(PARAMETERS)
    assert time.monotonic() - begun < 10
    assert without_credentials(address) in str(told.value)
    assert "MLFLOW_TRACKING_URI" in str(told.value)
    assert "s3cret" not in str(told.value)
    assert "anna" not in str(told.value)
    assert tracker.pending == 0


def test_server_that_never_answers_is_told_quickly(
    new: Callable[..., MlflowTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PROBE_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracker = new(tracking_uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ServiceError, match="timed out"):
            tracker.begin(PARAMETERS)


def test_deleted_experiment_is_told(new: Callable[..., MlflowTracker], uri: str) -> None:
    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment("nas-theseus"))
    with pytest.raises(ServiceError, match="experiments restore"):
        new().begin(PARAMETERS)


def test_outbox_has_one_writer(
    new: Callable[..., MlflowTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "LOCK_TIMEOUT_S", 0.1)
    tracker = new()
    tracker.begin(PARAMETERS)
    with pytest.raises(ServiceError, match="another process"):
        new().begin(PARAMETERS)
    tracker.end()


def test_outbox_that_cannot_be_written(new: Callable[..., MlflowTracker], tmp_path: Path) -> None:
    (tmp_path / "first").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="outbox"):
        new().outcome(evaluation(1))


@pytest.mark.slow
def test_server_that_goes_away_and_comes_back(
    new: Callable[..., MlflowTracker],
    uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port"]
    command += [str(port), "--workers", "1", "--backend-store-uri", uri]

    def serve() -> subprocess.Popen[bytes]:
        server = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=1):
                    return True
            except OSError:
                return False

        wait_for(answers, 90)
        return server

    def stop(server: subprocess.Popen[bytes]) -> None:
        os.killpg(server.pid, 9)
        server.wait()

    server = serve()
    try:
        tracker = new(tracking_uri=address)
        tracker.begin(PARAMETERS)
        tracker.outcome(evaluation(1))
        wait_for(lambda: tracker.pending == 0, 60)
        stop(server)
        begun = time.monotonic()
        tracker.outcome(evaluation(2))
        tracker.front(FrontNow((architecture(2).id,), {"hypervolume": 0.5}, step=2))
        assert time.monotonic() - begun < 1
        time.sleep(0.5)
        assert tracker.pending == 2
        server = serve()
        assert tracker.end(timeout_s=60) == 0
    finally:
        stop(server)
    found = runs(uri)
    assert set(found) == {"first", architecture(1).id, architecture(2).id}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert found[architecture(2).id].data.tags["theseus.front"] == "true"
    assert "View run" not in capfd.readouterr().out  # MLflow prints two lines for each run


def test_a_damaged_record_is_never_delivered(tmp_path: Path) -> None:
    outbox = outbox_module.Outbox(tmp_path)
    path = outbox.put("front", ids=["one"], metrics={"hypervolume": 0.25}, step=3)
    assert outbox.load(path)["metrics"] == {"hypervolume": 0.25}
    path.write_text(path.read_text().replace("0.25", "0.35"))
    with pytest.raises(RecordError, match="damaged: its checksum does not match"):
        outbox.load(path)


def test_mlflow_s_tables_are_in_a_new_file_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow cannot continue a file whose tables it has half made."""
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    made: list[str] = []

    def killed(client: object, **options: object) -> None:
        (begun,) = tmp_path.glob(".new.db.tables")
        made.append(begun.name)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("mlflow.tracking.MlflowClient.search_experiments", killed)
        with pytest.raises(KeyboardInterrupt):
            connect(uri)
    assert made and not (tmp_path / "new.db").exists()
    (tmp_path / ".new.db.tables").mkdir()  # as kill -9 leaves it
    client = connect(uri)
    assert client.create_experiment("one")
    assert {path.name for path in tmp_path.iterdir()} == {"new.db", "new.db.lock"}
