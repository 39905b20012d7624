"""What listens while a search and the UI run is on loopback; see docs/guides/security.md."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nas_theseus.services.ray.executor import RayExecutor
from nas_theseus.values.settings import ExecutorSettings
from tests.integration.browser import free_port, server
from tests.listening import Socket, listening


def wait_for(enough: Callable[[list[Socket]], bool]) -> list[Socket]:
    """What this process and its children listen on, once it is enough, or after 20 s."""
    until_s = time.monotonic() + 20
    while not enough(found := listening(os.getpid())) and time.monotonic() < until_s:
        time.sleep(0.2)
    return found


def test_a_socket_on_every_address_is_seen() -> None:
    """Otherwise the other tests would see nothing."""
    with socket.socket() as to_all, socket.socket() as own:
        to_all.bind(("0.0.0.0", 0))
        own.bind(("127.0.0.1", 0))
        ports = {one.getsockname()[1]: one is own for one in (to_all, own)}
        for one in (to_all, own):
            one.listen()
        found = {one.port: one.on_loopback for one in listening(os.getpid())}
    assert ports.items() <= found.items()


def test_the_ray_of_a_search_listens_on_loopback(tmp_path: Path) -> None:
    executor = RayExecutor(ExecutorSettings(parallel=1), tmp_path / "log")
    executor.check()
    executor.open()
    try:
        wanted = {"gcs_server", "raylet"}
        found = wait_for(lambda found: wanted <= {one.program for one in found})
        time.sleep(3)  # of workers and agents, which start later
        found = listening(os.getpid())
    finally:
        executor.close()
    assert wanted <= {one.program for one in found}
    assert [one for one in found if not one.on_loopback] == []


@pytest.mark.slow
def test_the_ui_listens_on_one_port_of_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    port, before = free_port(), set(listening(os.getpid()))
    command = [sys.executable, "-m", "nas_theseus", "ui", "--port", str(port)]
    with server(command, f"http://127.0.0.1:{port}/health", tmp_path / "ui.log"):
        found = set(listening(os.getpid())) - before
    assert {(one.address, one.port) for one in found} == {("127.0.0.1", port)}
