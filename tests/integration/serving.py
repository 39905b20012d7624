"""A server of an MLflow model as its users start it, and requests to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LIMIT_S = 240


def ask(address: str, body: dict[str, Any]) -> Any:
    """The answer to a request.

    Raises:
        urllib.error.HTTPError: the server refuses it.
    """
    request = urllib.request.Request(
        f"{address}/invocations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@contextmanager
def served(uri: str, log: Path, scripts: Path | None = None, **variables: str) -> Iterator[str]:
    """Address of a server of a model, once it answers.

    Args:
        uri: of the model.
        log: what the server prints goes here.
        scripts: those of the environment that serves. Default: this one's.
        variables: of the server's process, in addition.
    """
    scripts = scripts or Path(sys.executable).parent
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [str(scripts / "python"), "-m", "mlflow", "models", "serve"]
    command += ["--env-manager", "local"]
    command += ["--model-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    # MLflow starts uvicorn by its name, as from an activated environment.
    found = {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **found, **variables},
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + LIMIT_S
        while True:
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            try:
                with urllib.request.urlopen(f"{address}/ping", timeout=5):
                    break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
