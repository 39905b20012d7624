"""Tracking against a real MLflow on SQLite: structure, idempotence, restarts, refusals."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from mlflow.entities import Metric, Run
from mlflow.tracking import MlflowClient

from nas_theseus.services.mlflow import MlflowTracker
from nas_theseus.services.mlflow import tracker as tracker_module
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import Cost, CurvePoint, Evaluation, Failure, Stopped
from nas_theseus.values.registers import TRACKERS
from nas_theseus.values.tracking import FrontNow, Parameter, ResultFiles, Results, TrackerContext

PARAMETERS: dict[str, Parameter] = {
    "trials": 4,
    "seed": 7,
    "time_limit": None,
}


def architecture(width: int) -> Architecture:
    return Architecture(
        (
            BlockChoice(Span(0, 1), "keep"),
            BlockChoice(Span(1, 3), "depthwise", (("expand", width),)),
        )
    )


def evaluation(width: int, accuracy: float = 0.8, recipe: str = "full") -> Evaluation:
    return Evaluation(
        architecture=architecture(width),
        recipe=recipe,
        seed=3,
        metrics={"val_accuracy": accuracy},
        cost=Cost({"macs": 1_000_000 * width, "params": 1000 * width, "latency_ms": 1.5}),
        train_macs_spent=12345,
        seconds=2.5,
        curve=(
            CurvePoint("similarity/1", 0, 0.25),
            CurvePoint("similarity/1", 1, 0.5),
            CurvePoint("val_accuracy", 0, 0.9),
            CurvePoint("val_accuracy", 1, 0.85),
        ),
    )


def failure(width: int) -> Failure:
    return Failure(architecture(width), "full", 3, "convert", "part 1 diverged: loss is nan")


def runs(uri: str, query: str = "", experiment: str = "nas-theseus") -> dict[str, Run]:
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    page = client.search_runs([found.experiment_id], query)
    names = [run.data.tags.get("theseus.architecture", run.info.run_name) for run in page]
    assert len(set(names)) == len(names), f"runs are doubled: {names}"
    return dict(zip(names, page, strict=True))


def history(uri: str, run: Run) -> dict[str, list[tuple[int, float]]]:
    client = MlflowClient(uri)
    return {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


def wait_for(condition: Callable[[], bool], limit_s: float = 30) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_runs_of_a_search(new: Callable[..., MlflowTracker], uri: str, tmp_path: Path) -> None:
    one, two = evaluation(1), evaluation(2, 0.85)
    (tmp_path / "front.html").write_text("<html></html>")
    (tmp_path / "model.json").write_text("{}")
    tracker = new()
    tracker.begin(PARAMETERS)
    tracker.outcome(one)
    tracker.outcome(two)
    tracker.outcome(failure(3))
    tracker.front(FrontNow((one.architecture.id,), {"hypervolume": 0.5, "front_size": 1}, step=1))
    tracker.front(FrontNow((two.architecture.id,), {"hypervolume": 0.7, "front_size": 1}, step=2))
    files = (
        ResultFiles(tmp_path, ("front.html",), place="plots"),
        ResultFiles(tmp_path, ("model.json",), architecture=two.architecture.id),
    )
    tested = {two.architecture.id: {"accuracy": 0.7}}
    tracker.results(Results({two.architecture.id: 1}, tested, files))
    assert tracker.end() == 0
    assert tracker.refused == 0

    found = runs(uri)
    parent = found["first"]
    assert set(found) == {"first", *(architecture(width).id for width in (1, 2, 3))}
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"trials": "4", "seed": "7", "time_limit": "none"}
    assert parent.data.tags["theseus.kind"] == "search"
    assert history(uri, parent)["hypervolume"] == [(1, 0.5), (2, 0.7)]

    first = found[one.architecture.id]
    assert first.info.status == "FINISHED"
    assert first.info.end_time - first.info.start_time == 2500
    assert first.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert first.data.tags["theseus.search"] == "first"
    assert first.data.tags["theseus.architecture"] == one.architecture.id
    assert first.data.params == {
        "architecture": one.architecture.id,
        "pairing": "0|1-2",
        "blocks": "keep|depthwise(expand=1)",
        "recipe": "full",
        "seed": "3",
    }
    points = history(uri, first)
    assert points["similarity/1"] == [(0, 0.25), (1, 0.5)]
    # The final value stands beside the curve and is the one MLflow shows, though it is lower.
    assert sorted(points["val_accuracy"]) == [(0, 0.9), (1, 0.8), (1, 0.85)]
    shown = {"val_accuracy": 0.8, "macs": 1e6, "params": 1e3, "latency_ms": 1.5}
    shown |= {"train_macs_spent": 12345, "seconds": 2.5, "similarity/1": 0.5}
    assert first.data.metrics == shown
    # Equal to the curve's last point: told once.
    assert sorted(history(uri, found[two.architecture.id])["val_accuracy"]) == [(0, 0.9), (1, 0.85)]

    # The front moved from the first to the second.
    assert first.data.tags["theseus.front"] == "false"
    assert found[two.architecture.id].data.tags["theseus.front"] == "true"
    assert found[two.architecture.id].data.tags["theseus.rank"] == "1"
    assert found[two.architecture.id].data.metrics["test_accuracy"] == 0.7
    assert "theseus.rank" not in first.data.tags

    failed = found[architecture(3).id]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["theseus.failure"] == "part 1 diverged: loss is nan"
    assert failed.data.tags["theseus.front"] == "false"

    client = MlflowClient(uri)
    assert [a.path for a in client.list_artifacts(parent.info.run_id)] == ["plots"]
    child = client.list_artifacts(found[two.architecture.id].info.run_id)
    assert [a.path for a in child] == ["model.json"]

    listed = json.loads((tmp_path / "first" / "runs.json").read_text())
    expected = {name: run.info.run_id for name, run in found.items() if name != "first"}
    assert listed == {"parent": parent.info.run_id, **expected}


def test_documented_queries(new: Callable[..., MlflowTracker], uri: str) -> None:
    tracker = new()
    tracker.begin(PARAMETERS)
    for width in (1, 2, 3):
        tracker.outcome(evaluation(width))
    tracker.front(FrontNow((architecture(1).id, architecture(3).id), {"hypervolume": 0.5}, step=3))
    tracker.end()
    small = runs(uri, "tags.\"theseus.front\" = 'true' and metrics.macs < 2000000")
    assert set(small) == {architecture(1).id}
    assert len(runs(uri, "tags.\"theseus.kind\" = 'architecture'")) == 3


def test_a_record_applied_twice_changes_nothing(
    new: Callable[..., MlflowTracker], uri: str, tmp_path: Path
) -> None:
    """A kill between applying a record and deleting it."""
    outbox = tmp_path / "first" / "outbox"
    waiting = new()
    waiting.outcome(evaluation(1))
    waiting.outcome(failure(2))
    waiting.front(FrontNow((architecture(1).id,), {"hypervolume": 0.5}, step=1))
    waiting.results(Results({architecture(1).id: 1}, {architecture(1).id: {"accuracy": 0.7}}))
    kept = {path.name: path.read_bytes() for path in outbox.glob("*.json")}
    assert len(kept) == 4

    tracker = new()
    tracker.begin(PARAMETERS)
    assert tracker.end() == 0
    before = {name: history(uri, run) for name, run in runs(uri).items()}
    assert list(outbox.glob("*.json")) == []

    for name, content in kept.items():
        (outbox / name).write_bytes(content)
    again = new()
    again.begin(PARAMETERS)
    again.outcome(evaluation(1))  # the restarted search queues it once more
    assert again.end() == 0
    assert again.refused == 0
    assert {name: history(uri, run) for name, run in runs(uri).items()} == before


def test_kill_while_a_run_is_filled(
    new: Callable[..., MlflowTracker], uri: str, tmp_path: Path
) -> None:
    """The run exists, RUNNING with half of its content, and the record is still there."""
    done = new()
    done.outcome(evaluation(1))
    outbox = tmp_path / "first" / "outbox"
    [path] = outbox.glob("*.json")
    name, content = path.name, path.read_bytes()
    done.begin(PARAMETERS)
    done.end()
    run = runs(uri)[architecture(1).id]
    whole = history(uri, run)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        # What a kill leaves: some metrics (a batch is one transaction), no end.
        for table in ("metrics", "latest_metrics"):
            database.execute(
                f"DELETE FROM {table} WHERE run_uuid = ? AND key < 'q'", (run.info.run_id,)
            )
        database.execute(
            "UPDATE runs SET status = 'RUNNING', end_time = NULL WHERE run_uuid = ?",
            (run.info.run_id,),
        )
    (outbox / name).write_bytes(content)
    again = new()
    again.begin(PARAMETERS)
    again.end()
    found = runs(uri)[architecture(1).id]
    assert found.info.run_id == run.info.run_id
    assert found.info.status == "FINISHED"
    assert {k: sorted(v) for k, v in history(uri, found).items()} == {
        k: sorted(v) for k, v in whole.items()
    }
    assert found.data.metrics == run.data.metrics


@pytest.mark.parametrize("evaluation_of_it", ["the same", "none", "of another recipe"])
def test_run_created_twice_by_a_lost_answer(
    new: Callable[..., MlflowTracker], uri: str, evaluation_of_it: str
) -> None:
    tracker = new()
    tracker.begin(PARAMETERS)
    tracker.outcome(evaluation(1))
    tracker.end()
    run = runs(uri)[architecture(1).id]
    tags = {k: v for k, v in run.data.tags.items() if k.startswith("theseus.")}
    if evaluation_of_it == "none":
        tags.pop("theseus.evaluation")
    elif evaluation_of_it != "the same":
        tags["theseus.evaluation"] = evaluation(1, recipe="another").name
    client = MlflowClient(uri)
    double = client.create_run(run.info.experiment_id, tags=tags, run_name=run.info.run_name)
    mine = client.create_run(run.info.experiment_id, tags={"theseus.search": "first"})
    again = new()
    again.begin(PARAMETERS)
    again.end()
    assert runs(uri)[architecture(1).id].info.run_id == run.info.run_id
    assert client.get_run(double.info.run_id).info.lifecycle_stage == "deleted"
    assert client.get_run(mine.info.run_id).info.lifecycle_stage == "active"


def test_going_on_reopens_the_search(new: Callable[..., MlflowTracker], uri: str) -> None:
    tracker = new()
    tracker.begin(PARAMETERS)
    tracker.outcome(evaluation(1))
    tracker.front(FrontNow((architecture(1).id,), {"hypervolume": 0.5}, step=1))
    tracker.end("KILLED")
    first = runs(uri)["first"]
    assert first.info.status == "KILLED"

    again = new()
    again.begin({**PARAMETERS, "trials": 9})
    wait_for(lambda: again.pending == 0)
    assert runs(uri)["first"].info.status == "RUNNING"
    again.outcome(evaluation(2))
    again.front(FrontNow((architecture(1).id, architecture(2).id), {"hypervolume": 0.7}, step=2))
    again.end()
    found = runs(uri)
    assert found["first"].info.run_id == first.info.run_id
    assert found["first"].info.status == "FINISHED"
    assert found["first"].data.params["trials"] == "4"  # MLflow never changes a parameter
    assert found["first"].data.tags["theseus.changed.trials"] == "9"
    assert history(uri, found["first"])["hypervolume"] == [(1, 0.5), (2, 0.7)]
    on_front = runs(uri, "tags.\"theseus.front\" = 'true'")
    assert set(on_front) == {architecture(1).id, architecture(2).id}


def test_result_after_failure_and_another_recipe(
    new: Callable[..., MlflowTracker], uri: str
) -> None:
    tracker = new()
    tracker.begin(PARAMETERS)
    tracker.outcome(failure(1))
    tracker.outcome(evaluation(1))
    tracker.outcome(failure(1))  # stale: the result stands
    tracker.outcome(evaluation(1, accuracy=0.95, recipe="longer"))
    assert (tracker.end(), tracker.refused) == (0, 0)
    run = runs(uri)[architecture(1).id]
    assert run.info.status == "FINISHED"
    assert "theseus.failure" not in run.data.tags
    assert run.data.metrics["val_accuracy"] == 0.95
    assert run.data.tags["theseus.evaluation"].endswith("-longer-3")


def test_a_stopped_candidate_is_a_killed_run_off_the_front(
    new: Callable[..., MlflowTracker], uri: str
) -> None:
    at_rung = evaluation(1, accuracy=0.85)
    stopped = Stopped("epoch_1", at_rung, {"val_accuracy": 0.9}, 77)
    tracker = new()
    tracker.begin(PARAMETERS)
    tracker.outcome(stopped)
    tracker.outcome(evaluation(2))
    tracker.front(FrontNow((architecture(2).id,), {"trials_stopped": 1}, step=2))
    tracker.outcome(stopped)  # told again after a restart
    assert (tracker.end(), tracker.refused) == (0, 0)
    run = runs(uri)[architecture(1).id]
    assert run.info.status == "KILLED"
    assert run.data.tags["theseus.stopped"] == "epoch_1"
    assert run.data.tags["theseus.front"] == "false"
    assert run.data.metrics["val_accuracy"] == 0.85
    assert history(uri, run)["predicted_val_accuracy"] == [(0, 0.9)]

    later = new()
    later.begin(PARAMETERS)
    later.outcome(at_rung)  # its own result is there after all
    later.outcome(stopped)
    assert (later.end(), later.refused) == (0, 0)
    run = runs(uri)[architecture(1).id]
    assert run.info.status == "FINISHED" and "theseus.stopped" not in run.data.tags


def test_long_curves_and_texts_fit_mlflow(new: Callable[..., MlflowTracker], uri: str) -> None:
    long = Architecture(
        tuple(BlockChoice(Span(i, i + 1), "b" * 90, (("hidden", i),)) for i in range(80))
    )
    curve = tuple(CurvePoint("loss", step, 1 / (step + 1)) for step in range(2300))
    item = Evaluation(
        long,
        "full",
        1,
        {"val_accuracy": 0.5},
        Cost({"macs": 1, "params": 1}),
        1,
        0.1,
        curve,
        ("n" * 9000,),
    )
    tracker = new()
    tracker.begin({f"setting_{i}": i for i in range(230)})
    tracker.outcome(item)
    assert (tracker.end(), tracker.refused) == (0, 0)
    found = runs(uri)
    assert len(found["first"].data.params) == 230
    assert len(long.blocks) > 6000 == len(found[long.id].data.params["blocks"])
    assert len(history(uri, found[long.id])["loss"]) == 2300


def test_refused_record_is_set_aside(
    new: Callable[..., MlflowTracker], uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = evaluation(1)
    bad = Evaluation.from_json({**bad.to_json(), "metrics": {"val|accuracy": 0.5}})
    tracker = new()
    tracker.begin(PARAMETERS)
    with caplog.at_level(logging.WARNING):
        tracker.outcome(bad)
        tracker.results(Results({}, {}, (ResultFiles(tmp_path, ("absent.html",)),)))
        tracker.outcome(evaluation(2))
        assert tracker.end() == 0
    assert tracker.refused == 2
    reasons = [p.read_text() for p in (tmp_path / "first/outbox/refused").glob("*.reason.txt")]
    assert any("val|accuracy" in reason for reason in reasons)
    assert any("absent.html" in reason for reason in reasons)
    assert "set aside" in caplog.text
    found = runs(uri)
    assert found[architecture(1).id].info.status == "FAILED"  # not left RUNNING
    assert "val|accuracy" in found[architecture(1).id].data.tags["theseus.failure"]
    assert found[architecture(2).id].info.status == "FINISHED"


def backlog(tracker: MlflowTracker, count: int) -> None:
    for width in range(1, count + 1):
        tracker.outcome(evaluation(width))
        tracker.front(
            FrontNow((architecture(width).id,), {"hypervolume": width / count}, step=width)
        )


def test_fronts_that_wait_are_told_in_one_call(
    new: Callable[..., MlflowTracker], uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = tracker_module.TOGETHER + 10
    monkeypatch.setattr(tracker_module, "FRONTS_WAIT_S", 600)
    backlog(new(), count)
    told: list[int] = []
    log_batch = MlflowClient.log_batch

    def counted(self: MlflowClient, run_id: str, metrics: Sequence[Metric], *rest: object) -> None:
        told.extend([len(metrics)] * any(m.key == "hypervolume" for m in metrics))
        log_batch(self, run_id, metrics, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    tracker = new()
    tracker.begin(PARAMETERS)
    assert tracker.end() == 0
    assert told == [tracker_module.TOGETHER, 10]
    found = runs(uri)
    assert len(found) == count + 1
    assert history(uri, found["first"])["hypervolume"] == [
        (width, width / count) for width in range(1, count + 1)
    ]
    assert set(runs(uri, "tags.\"theseus.front\" = 'true'")) == {architecture(count).id}


@pytest.mark.parametrize("refused", [1, 7, 12])
def test_of_fronts_told_together_only_the_refused_one_is_set_aside(
    new: Callable[..., MlflowTracker], uri: str, tmp_path: Path, refused: int
) -> None:
    backlog(new(), 12)
    [strange] = (tmp_path / "first" / "outbox").glob(f"*{2 * refused:03d}-front.json")
    strange.write_text('{"kind": "strange", "time_ms": 1}')
    tracker = new()
    tracker.begin(PARAMETERS)
    assert (tracker.end(), tracker.refused, tracker.pending) == (0, 1, 0)
    found = runs(uri)
    assert {run.info.status for run in found.values()} == {"FINISHED"} and len(found) == 13
    steps = [width for width in range(1, 13) if width != refused]
    assert history(uri, found["first"])["hypervolume"] == [(step, step / 12) for step in steps]
    last = architecture(steps[-1]).id
    assert set(runs(uri, "tags.\"theseus.front\" = 'true'")) == {last}


def test_what_is_stopped_while_fronts_are_held_is_told_by_the_next_start(
    new: Callable[..., MlflowTracker], uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_module, "FRONTS_WAIT_S", 600)
    backlog(new(), 6)

    set_terminated, ended = MlflowClient.set_terminated, list[str]()

    def once(self: MlflowClient, run_id: str, *rest: object) -> None:
        if ended and run_id not in ended:
            raise OSError("the server is down")
        ended.append(run_id)
        set_terminated(self, run_id, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "set_terminated", once)
        first = new()
        first.begin(PARAMETERS)
        wait_for(lambda: len(first._held) == 1)
        assert first.end("KILLED", timeout_s=0.2) == first.pending == 13
    assert len(list((tmp_path / "first" / "outbox").glob("*.json"))) == 13
    again = new()
    again.begin(PARAMETERS)
    assert (again.end(), again.refused) == (0, 0)
    found = runs(uri)
    assert history(uri, found["first"])["hypervolume"] == [(n, n / 6) for n in range(1, 7)]


def test_numbers_go_on_after_refused_and_delivered(
    new: Callable[..., MlflowTracker], tmp_path: Path
) -> None:
    refused = tmp_path / "first" / "outbox" / "refused"
    refused.mkdir(parents=True)
    (refused / "000000000041-front.json").write_text("{}")
    tracker = new()
    tracker.outcome(evaluation(1))
    assert [p.name for p in refused.parent.glob("*.json")] == ["000000000042-evaluation.json"]
    assert tracker.pending == 1
    assert new().pending == 1


def test_run_deleted_by_hand_does_not_stop_the_front(
    new: Callable[..., MlflowTracker], uri: str
) -> None:
    tracker = new()
    tracker.begin(PARAMETERS)
    tracker.outcome(evaluation(1))
    tracker.outcome(evaluation(2))
    wait_for(lambda: tracker.pending == 0)
    MlflowClient(uri).delete_run(runs(uri)[architecture(1).id].info.run_id)
    tracker.front(FrontNow((architecture(1).id, architecture(2).id), {"hypervolume": 0.5}, step=1))
    assert (tracker.end(), tracker.refused) == (0, 0)
    assert set(runs(uri, "tags.\"theseus.front\" = 'true'")) == {architecture(2).id}


def test_experiment_and_server_from_the_environment(
    new: Callable[..., MlflowTracker], uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    tracker = MlflowTracker("named", tmp_path / "outbox", tmp_path / "runs.json")
    tracker.begin(PARAMETERS)
    assert tracker.end() == 0
    assert set(runs(uri, experiment="mine")) == {"named"}


def test_wrong_arguments(new: Callable[..., MlflowTracker], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="quotes"):
        MlflowTracker("it's", tmp_path, tmp_path / "runs.json")
    with pytest.raises(ValueError, match="FINISHED, FAILED, KILLED"):
        new().end("DONE")  # type: ignore[arg-type]


@pytest.mark.slow
def test_first_use_is_quiet(tmp_path: Path) -> None:
    """A fresh database is migrated without a word, in a process of its own."""
    program = (
        "from pathlib import Path\n"
        "from nas_theseus.services.mlflow import MlflowTracker\n"
        "tracker = MlflowTracker('quiet', Path('outbox'), Path('runs.json'))\n"
        "tracker.begin({'a': 1})\n"
        "assert tracker.end() == 0\n"
    )
    skipped = ("MLFLOW_", "PYTHONWARNINGS")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(skipped)}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "mlflow.db").is_file()


def test_a_resumed_search_sends_what_has_no_run(new: Callable[..., MlflowTracker]) -> None:
    tracker = new()
    tracker.begin(PARAMETERS)
    assert not tracker.has(evaluation(1))
    tracker.outcome(evaluation(1))
    tracker.end("KILLED")
    again = new()
    again.begin(PARAMETERS)
    assert again.has(evaluation(1)) and not again.has(evaluation(2))


def test_the_register_makes_it_for_a_search(uri: str, tmp_path: Path) -> None:
    context = TrackerContext("one", "me-1", tmp_path, tmp_path / "outbox", tmp_path / "runs.json")
    tracker = TRACKERS["mlflow"](context)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        tracker.begin(PARAMETERS)
        assert tracker.end("FINISHED") == 0
    assert runs(uri)["one"].data.tags["theseus.identity"] == "me-1"
