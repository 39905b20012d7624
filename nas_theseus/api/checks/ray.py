"""Ray: whether it can be started here, or the cluster be joined."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from nas_theseus.api.doctor import Asked, Finding

_ANSWER_S = 5.0


def check(asked: Asked) -> Iterator[Finding]:
    """Start Ray or join the cluster if that was asked for; otherwise only knock at its address."""
    found = version("ray")
    if asked.start_ray:
        yield _started(asked)
    elif asked.address is None:
        yield Finding("Ray", "ok", f"{found} is installed; --ray starts it")
    elif (place := _host_and_port(asked.address)) is None:
        yield Finding("Ray", "ok", f"{found} is installed; --ray joins {asked.address}")
    else:
        yield _knocked(asked.address, place)


def _started(asked: Asked) -> Finding:
    import ray

    from nas_theseus.services.ray.executor import RayExecutor
    from nas_theseus.values.settings import ExecutorSettings

    # All nodes of a cluster must see the storage; on this machine nothing of it is kept.
    where = None if asked.address is None else asked.storage
    if where is not None:
        where.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=where, prefix=".probe-") as folder:
        executor = RayExecutor(ExecutorSettings(address=asked.address), Path(folder))
        executor.check()
        executor.open()
        try:
            slots = executor.slots
        finally:
            executor.close()
    how = "started here" if asked.address is None else f"joined at {asked.address}"
    return Finding(
        "Ray", "ok", f"{ray.__version__}, {how}; it has room for {slots} trials of 1 CPU"
    )


def _host_and_port(address: str) -> tuple[str, int] | None:
    """Where a cluster listens; None for "auto", which only Ray can look up."""
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        return (parts.hostname, parts.port) if parts.hostname and parts.port else None
    except ValueError:  # a port that is no number
        return None


def _knocked(address: str, place: tuple[str, int]) -> Finding:
    try:
        socket.create_connection(place, _ANSWER_S).close()
    except OSError as error:
        said = f"nothing answers at {address}: {error.strerror or error}"
        remedy = "see ray status on the head node, or leave --address out to run on this machine"
        return Finding("Ray", "broken", said, remedy)
    return Finding("Ray", "ok", f"something answers at {address}; --ray joins it")


MEMBER = check
