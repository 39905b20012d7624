"""Jobs one after the other in this process: for debuggers, notebooks and tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nas_theseus.errors import ServiceError, StorageError
from nas_theseus.searches.execution import Job, Jobs, MakeWorker, Promotes, Worker
from nas_theseus.values.events import Ended, Reached
from nas_theseus.values.settings import ExecutorSettings


class InlineExecutor:
    """Runs every job in this process, so that errors keep their own traceback.

    Args:
        settings: only the resources of a trial are used.
        log: not used.
    """

    slots = 1

    def __init__(self, settings: ExecutorSettings, log: Path) -> None:
        del log
        self._settings = settings

    def check(self) -> None:
        """Refuse settings that need other processes, or a GPU that this machine does not have.

        Raises:
            ServiceError: says which setting, and what to use instead.
        """
        if self._settings.address is not None:
            raise ServiceError(
                "--executor inline runs jobs in this process, so it cannot join a cluster; leave "
                "--address out, or use --executor ray"
            )
        ours = {
            "--label-selector": self._settings.resources.label_selector,
            "--runtime-env": self._settings.runtime_env,
            "callbacks": self._settings.callbacks,
        }
        if given := [name for name, value in ours.items() if value]:
            raise ServiceError(
                f"--executor inline runs jobs in this process, without Ray, so it has no use for "
                f"{' and '.join(given)}; leave that out, or use --executor ray"
            )
        if (self._settings.parallel or 1) > 1:
            raise ServiceError(
                f"--executor inline runs one job at a time, not {self._settings.parallel}; leave "
                "--parallel out, or use --executor ray"
            )
        if self._settings.resources.gpus > 0 and not torch.cuda.is_available():
            raise ServiceError("a trial asks for a GPU, but torch sees none on this machine")

    def open(self) -> None:
        """Nothing to start."""

    def run(
        self, jobs: Jobs[Any], make_worker: MakeWorker, promotes: Promotes | None = None
    ) -> None:
        """As `searches.execution.Executor.run`; restores torch's number of threads afterwards."""
        threads = torch.get_num_threads()
        try:
            worker = make_worker()
            while (job := jobs.next()) is not None:
                jobs.ended(job, _run(worker, job, jobs, promotes))
        finally:
            torch.set_num_threads(threads)

    def close(self) -> None:
        """Nothing to stop."""


def _run(worker: Worker[Any], job: Job, jobs: Jobs[Any], promotes: Promotes | None) -> str | None:
    """Run one job; returns why it failed, else None."""
    try:
        for event in worker(job):
            if isinstance(event, Ended):
                return event.failure
            if isinstance(event, Reached):
                if promotes is not None and not promotes(event):
                    return None
            else:
                jobs.reported(job, event)
    except StorageError as error:
        raise StorageError(f"{error}; then the same command continues from here") from error
    return None


MEMBER = InlineExecutor
