"""The watch over Ray's head, at a socket on loopback."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from nas_theseus.services.ray.head import watched


@pytest.fixture
def head() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def address_of(head: socket.socket) -> str:
    return f"127.0.0.1:{head.getsockname()[1]}"


def test_a_head_that_is_gone_is_named_once_with_the_remedy(
    head: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    address = address_of(head)
    with watched(address, every_s=0.02, silent_s=0.1):
        time.sleep(0.3)
        assert caplog.messages == []
        head.close()
        wait_for(caplog, 1)
        time.sleep(0.3)
    assert len(caplog.messages) == 1
    assert address in caplog.text and "the same command continues" in caplog.text


def test_a_watch_ends_with_the_search(
    head: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    address = address_of(head)
    with watched(address, every_s=0.02, silent_s=0.04):
        time.sleep(0.1)
    head.close()
    time.sleep(0.2)
    assert caplog.messages == []


def test_a_head_that_never_answered_from_here_is_not_judged(
    head: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """Ray's client knows an address inside the cluster, which need not be reachable."""
    address = address_of(head)
    head.close()
    with watched(address, every_s=0.02, silent_s=0.04):
        time.sleep(0.3)
    assert caplog.messages == []


def test_a_head_that_comes_back_and_goes_again_is_named_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with watched(f"127.0.0.1:{port}", every_s=0.02, silent_s=0.1):
            time.sleep(0.2)
            first.close()
            wait_for(caplog, 1)
            with socket.create_server(("127.0.0.1", port)):
                time.sleep(0.2)
            wait_for(caplog, 2)


def wait_for(caplog: pytest.LogCaptureFixture, messages: int) -> None:
    end = time.monotonic() + 10
    while len(caplog.messages) < messages and time.monotonic() < end:
        time.sleep(0.02)
    assert len(caplog.messages) == messages
