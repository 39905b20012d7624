"""A search in one process, its jobs one after the other and Ray left out: it starts at once.

Everything else is the search's own: proposals, results, library, records, the front.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nas_theseus.cli import app as cli
from nas_theseus.errors import StorageError
from nas_theseus.services.ray import cluster
from nas_theseus.values.settings import SearchSettings


def run_jobs(
    jobs: cluster.Jobs[Any],
    make_run: Callable[[], cluster.WorkerRun[Any]],
    settings: SearchSettings,
    folder: Path,
) -> None:
    """As `cluster.run_jobs`, here."""
    run = make_run()
    while (job := jobs.next()) is not None:
        steps = run(job)
        failure, goes_on = None, True
        while goes_on:
            try:
                step = next(steps)
            except StopIteration as end:
                failure, goes_on = end.value, False
            except StorageError as error:
                raise StorageError(f"{error}; then the same command goes on from here") from error
            else:
                if isinstance(step, str):
                    jobs.reported(job, step)
                else:
                    goes_on = jobs.reached(step)
        jobs.ended(job, failure)


def run(arguments: list[str]) -> None:
    """The command line, with Ray left out."""
    cluster.connect = lambda *_: None
    cluster.disconnect = lambda: None
    cluster.slots = lambda _: 1
    cluster.run_jobs = run_jobs
    sys.argv = ["nas-theseus", *arguments]
    cli.main()


class Forked:
    """A child of this process that runs a command line, with the interface of `Popen`."""

    def __init__(
        self, arguments: list[str], folder: Path, environment: dict[str, str], log: int
    ) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code: Any = 1
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.chdir(folder)
                os.environ.clear()
                os.environ.update(environment)
                for stream in (1, 2):
                    os.dup2(log, stream)
                sys.stdout, sys.stderr = (os.fdopen(os.dup(log), "w", 1) for _ in range(2))
                torch.set_num_threads(1)
                run(arguments)
                code = 0
            except SystemExit as end:
                code = end.code
            except BaseException as error:
                print(f"Traceback: {error!r}", flush=True)
            finally:
                sys.stdout.flush()
                os._exit(code if isinstance(code, int) else int(code is not None))

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            assert end is None or time.monotonic() < end, "the search goes on and on"
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


if __name__ == "__main__":
    run(sys.argv[1:])
