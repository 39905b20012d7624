"""Fronts wait for each other for a while: they arrive in order, at the end, and after a kill."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from nas_theseus.services.mlflow import MlflowTracker
from nas_theseus.services.mlflow import tracker as tracker_module
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import Cost, Evaluation
from nas_theseus.values.tracking import FrontNow, Results


def architecture(width: int) -> Architecture:
    return Architecture((BlockChoice(Span(0, 3), "depthwise", (("expand", width),)),))


@pytest.mark.parametrize("given", [None, "false"])
def test_mlflow_prints_no_address_for_each_run_unless_it_is_asked_to(
    new: Callable[..., MlflowTracker], monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    name = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    new().begin({})
    assert os.environ[name] == (given or "true")


def trials(tracker: MlflowTracker, widths: Iterable[int]) -> None:
    """Outcomes with their fronts; each comes when MLflow has the outcome before."""
    for width in widths:
        cost = Cost({"macs": 1_000_000 * width, "params": 1000 * width})
        tracker.outcome(Evaluation(architecture(width), "r", 3, {"val_accuracy": 0.8}, cost, 1, 2))
        tracker.front(FrontNow((architecture(width).id,), {"hypervolume": width / 10}, width))
        wait_for(lambda: not tracker._waiting)


def wait_for(condition: Callable[[], bool], limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def runs(uri: str) -> dict[str, Run]:
    client = MlflowClient(uri)
    page = client.search_runs([client.get_experiment_by_name("nas-theseus").experiment_id])
    found = {str(run.data.tags.get("theseus.architecture", run.info.run_name)): run for run in page}
    assert len(found) == len(page), "runs are doubled"
    return found


def volumes(uri: str) -> list[tuple[int, float]]:
    """Steps and values that the search's run has, in order of their times."""
    found = MlflowClient(uri).get_metric_history(runs(uri)["first"].info.run_id, "hypervolume")
    return [(point.step, point.value) for point in sorted(found, key=lambda point: point.timestamp)]


def marked(uri: str) -> set[str]:
    """Architectures whose runs say that they are on the front."""
    return {n for n, run in runs(uri).items() if run.data.tags.get("theseus.front") == "true"}


@pytest.fixture
def for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_module, "FRONTS_WAIT_S", 600)


def test_a_front_alone_waits_no_longer_than_it_may(
    new: Callable[..., MlflowTracker], uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_module, "FRONTS_WAIT_S", 0.5)
    tracker = new()
    tracker.begin({})
    trials(tracker, [1])
    wait_for(lambda: tracker.pending == 0)
    assert (volumes(uri), marked(uri)) == ([(1, 0.1)], {architecture(1).id})


@pytest.mark.usefixtures("for_ever")
def test_fronts_of_slow_trials_are_told_at_the_end_in_order(
    new: Callable[..., MlflowTracker], uri: str, tmp_path: Path
) -> None:
    tracker = new()
    tracker.begin({})
    trials(tracker, [1, 2, 3])
    assert tracker.pending == 3
    assert set(runs(uri)) == {"first", *(architecture(width).id for width in (1, 2, 3))}
    assert len(list((tmp_path / "first" / "outbox").glob("*-front.json"))) == 3
    assert (volumes(uri), marked(uri)) == ([], set())
    assert (tracker.end(), tracker.refused) == (0, 0)
    assert (volumes(uri), marked(uri)) == ([(1, 0.1), (2, 0.2), (3, 0.3)], {architecture(3).id})
    assert runs(uri)["first"].info.status == "FINISHED"


@pytest.mark.usefixtures("for_ever")
def test_held_fronts_go_before_anything_but_outcomes(
    new: Callable[..., MlflowTracker], uri: str
) -> None:
    tracker = new()
    tracker.begin({})
    trials(tracker, [1, 2])
    tracker.results(Results({architecture(2).id: 1}, {}, ()))
    wait_for(lambda: tracker.pending == 0)
    assert (volumes(uri), marked(uri)) == ([(1, 0.1), (2, 0.2)], {architecture(2).id})
    assert runs(uri)[architecture(2).id].data.tags["theseus.rank"] == "1"


@pytest.mark.usefixtures("for_ever")
def test_as_many_as_go_together_do_not_wait(
    new: Callable[..., MlflowTracker], uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_module, "TOGETHER", 3)
    tracker = new()
    tracker.begin({})
    trials(tracker, [1, 2, 3, 4])
    wait_for(lambda: tracker.pending == 1)
    assert (volumes(uri), marked(uri)) == ([(1, 0.1), (2, 0.2), (3, 0.3)], {architecture(3).id})


@pytest.mark.usefixtures("for_ever")
def test_fronts_held_at_a_kill_are_told_by_the_next_start(
    new: Callable[..., MlflowTracker], uri: str
) -> None:
    child = os.fork()
    if child == 0:
        tracker = new()
        tracker.begin({})
        trials(tracker, [1, 2, 3])
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (volumes(uri), marked(uri)) == ([], set())
    again = new()
    assert again.pending == 3
    again.begin({})
    trials(again, [4])
    assert again.end() == 0
    assert volumes(uri) == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert marked(uri) == {architecture(4).id}


@pytest.mark.usefixtures("for_ever")
@pytest.mark.parametrize("damaged", [1, 2])
def test_of_held_fronts_only_a_damaged_one_is_set_aside(
    new: Callable[..., MlflowTracker], uri: str, tmp_path: Path, damaged: int
) -> None:
    tracker = new()
    tracker.begin({})
    trials(tracker, [1, 2])
    held = sorted((tmp_path / "first" / "outbox").glob("*-front.json"))
    held[damaged - 1].write_text("{")
    assert (tracker.end(), tracker.refused) == (0, 1)
    left = 3 - damaged
    assert (volumes(uri), marked(uri)) == ([(left, left / 10)], {architecture(left).id})
