"""Ray's head, watched while a search runs: without it, Ray ends the driver and no code runs."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

_log = logging.getLogger(__name__)
# Ray ends a process whose head did not answer for a minute.
EVERY_S, SILENT_S = 5.0, 15.0


@contextmanager
def watched(address: str, every_s: float = EVERY_S, silent_s: float = SILENT_S) -> Iterator[None]:
    """Say that the head is gone, and what to do, as soon as it does not answer for a while.

    Args:
        address: host and port of Ray's control store (GCS).
        every_s: between two questions.
        silent_s: how long it has to be silent.
    """
    ended = Event()
    watch = Thread(target=_watch, args=(address, every_s, silent_s, ended), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def _watch(address: str, every_s: float, silent_s: float, ended: Event) -> None:
    silent = 0.0
    while not ended.wait(every_s):
        if _answers(address, every_s):
            silent = 0.0
            continue
        silent += every_s
        if silent >= silent_s:
            _log.warning(
                "Ray's head at %s does not answer; after a minute Ray ends this process. Nothing "
                "finished is lost: once Ray runs again, the same command continues from here, with "
                "its new --address if it has one",
                address,
            )
            return


def _answers(address: str, limit_s: float) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), limit_s):
            return True
    except OSError:
        return False
