"""A command line in a child of this process: it starts at once, as everything is imported."""

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


class Forked:
    """A child of this process that runs a command line, with the interface of `Popen`.

    Args:
        prepare: called in the child, before its command line runs.
    """

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        environment: dict[str, str],
        log: int,
        prepare: Callable[[], object] = lambda: None,
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
                sys.argv = ["nas-theseus", *arguments]
                prepare()
                cli.main()
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
