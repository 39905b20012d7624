"""What Ray is asked for before it starts, and how it ends."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import NodeID
from ray.tune import Callback

from nas_theseus.errors import ServiceError
from nas_theseus.services.ray import executor as module
from nas_theseus.services.ray import nodes as nodes_module
from nas_theseus.services.ray.executor import RayExecutor
from nas_theseus.services.ray.nodes import alive, ask_nodes, mistakes_of, versions_here
from nas_theseus.services.ray.requests import refuse_too_small
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.events import Ended
from nas_theseus.values.resources import Resources
from nas_theseus.values.settings import ExecutorSettings


class Handle:
    """Stands for one of Ray's, kept alive by a cycle until it is collected."""

    def __init__(self) -> None:
        self.itself = self


def test_what_waits_to_be_collected_is_freed_before_and_nothing_while_ray_ends(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alive = []
    waiting = weakref.ref(Handle())

    def shutdown() -> None:
        alive.append(waiting() is not None)
        alive.append(gc.isenabled())
        raise RuntimeError("as it may")

    monkeypatch.setattr(module.ray, "shutdown", shutdown)
    with pytest.raises(RuntimeError, match="as it may"):
        RayExecutor(ExecutorSettings(), tmp_path).close()
    assert alive == [False, False] and gc.isenabled()


def executor(folder: Path, cpus: float, address: str | None = None) -> RayExecutor:
    settings = ExecutorSettings(address=address, resources=Resources(cpus=cpus))
    return RayExecutor(settings, folder)


def test_more_cores_a_trial_than_there_are_is_refused(tmp_path: Path) -> None:
    cores = os.cpu_count() or 1
    executor(tmp_path, cores).check()
    executor(tmp_path, 400, "auto").check()
    with pytest.raises(ServiceError, match=f"this machine has {cores}; lower --cpus-per-trial"):
        executor(tmp_path, cores + 1).check()


def test_what_ray_would_choke_on_later_is_refused_before_it_starts(tmp_path: Path) -> None:
    wrong = ExecutorSettings(runtime_env=tmp_path / "none.yaml")
    with pytest.raises(ServiceError, match=r"--runtime-env .*none\.yaml cannot be read"):
        RayExecutor(wrong, tmp_path).check()
    with pytest.raises(ServiceError, match="is no ray.tune.Callback"):
        RayExecutor(ExecutorSettings(callbacks=(print,)), tmp_path).check()


class Names(Callback):
    """What Tune calls the trials."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.started.append(str(trial))


class Jobs:
    """Two architectures, and how they ended."""

    def __init__(self) -> None:
        choices = [BlockChoice(Span(0, 1), "linear"), BlockChoice(Span(0, 1), "keep")]
        self.all = [Architecture((choice,)) for choice in choices]
        self.waiting = list(self.all)
        self.failures: dict[str, str | None] = {}

    def next(self) -> Architecture | None:
        return self.waiting.pop(0) if self.waiting else None

    def reported(self, job: Architecture, stage: str) -> None:
        """Nothing."""

    def ended(self, job: Architecture, failure: str | None) -> None:
        self.failures[job.id] = failure


def test_labels_a_runtime_environment_and_callbacks_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen:
        """Saves what its process sees; inside the test, so that Ray sends it by value."""

        def __call__(self, job: Architecture) -> Iterator[str | Ended]:
            (tmp_path / job.id).write_text(os.environ.get("HERE", "nothing"))
            yield "seen"
            yield Ended()

    file = tmp_path / "environment.yaml"
    file.write_text("env_vars: {HERE: there}")
    names, jobs = Names(), Jobs()
    given = ExecutorSettings(
        parallel=1,
        resources=Resources(label_selector={"zone": "!in(b, c)"}),
        runtime_env=file,
        callbacks=(names,),
    )
    executor = RayExecutor(given, tmp_path / "log")
    executor.check()
    executor.open()
    try:
        executor.run(jobs, Seen)
        with pytest.raises(ServiceError, match="--label-selector wants them, zone=b: .* has none"):
            refuse_too_small(alive(), {"CPU": 1}, {"zone": "b"})
        # A node that dies while it is asked: it is listed once, and not again.
        gone = {"NodeID": NodeID.from_random().hex(), "NodeManagerAddress": "127.0.0.9"}
        lists = iter([[*alive(), gone], alive()])
        monkeypatch.setattr(nodes_module, "alive", lambda: next(lists))
        assert mistakes_of(ask_nodes(tmp_path), versions_here(), tmp_path) == []
    finally:
        executor.close()
    assert jobs.failures == {job.id: None for job in jobs.all}
    assert [(tmp_path / job.id).read_text() for job in jobs.all] == ["there", "there"]
    said = ["linear", "the guide"]
    assert names.started == [
        f"architecture {job.id}: {blocks}" for job, blocks in zip(jobs.all, said, strict=True)
    ]
