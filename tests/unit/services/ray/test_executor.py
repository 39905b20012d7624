"""What Ray is asked for before it starts, and how it ends."""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path

import pytest

from nas_theseus.errors import ServiceError
from nas_theseus.services.ray import executor as module
from nas_theseus.services.ray.executor import RayExecutor
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
