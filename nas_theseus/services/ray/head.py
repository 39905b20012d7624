"""Ray's head, watched while a search runs: without it, Ray ends the driver and no code runs."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

_log = logging.getLogger(__name__)
# Ray ends a process whose head did not answer for a minute.
EVERY_S, SILENT_S = 5.0, 15.0


@contextmanager
def watched(address: str, every_s: float = EVERY_S, silent_s: float = SILENT_S) -> Iterator[None]:
    """Say that the head is gone, and what to do, as soon as it takes no connections for a while.

    A head that never took one from here, as behind Ray's client, is not watched.

    Args:
        address: host and port of Ray's control store (GCS).
        every_s: seconds between two tries.
        silent_s: seconds without a connection after which it is said; again after the next one.
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
    last_s, said = None, False
    while True:
        if _connects(address, every_s):
            last_s, said = time.monotonic(), False
        elif last_s is not None and not said and time.monotonic() - last_s >= silent_s:
            _log.warning(
                "Ray's head at %s does not answer; after a minute Ray ends this process. Nothing "
                "finished is lost: the same command continues from here (of a cluster, once it "
                "runs again, with its new --address if it has one)",
                address,
            )
            said = True
        if ended.wait(every_s):
            return


def _connects(address: str, limit_s: float) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), limit_s):
            return True
    except OSError:
        return False
