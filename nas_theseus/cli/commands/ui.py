"""``nas-theseus ui``: MLflow's own UI."""

from __future__ import annotations

import os
import socket
import sys
from typing import Annotated

import typer


def command(
    port: Annotated[int, typer.Option(help="Port on this machine's loopback.")] = 5000,
) -> None:
    """Open MLflow's own UI on the store that searches here write to, on loopback."""
    import mlflow

    from nas_theseus.services.mlflow import front_link, without_credentials

    uri = mlflow.get_tracking_uri()
    if uri.startswith(("http://", "https://")):
        shown = without_credentials(uri)
        print(f"MLflow's server is {shown}; the fronts: {front_link(shown)}")
        return
    _refuse_taken(port)
    print(f"the fronts: {front_link(f'http://127.0.0.1:{port}')}  (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    # In place of this process, so that whoever ends it ends the server as well. One person reads:
    # four workers, MLflow's default, only start later.
    os.execv(
        sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    )


def _refuse_taken(port: int) -> None:
    from nas_theseus.errors import ServiceError

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            message = f"MLflow's UI cannot use port {port}: {error}; choose another with --port"
            raise ServiceError(message) from error
