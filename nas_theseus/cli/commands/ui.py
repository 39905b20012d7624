"""``nas-theseus ui``: MLflow's own UI."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from nas_theseus.cli.options import DEFAULT_STORAGE, StorageOption

if TYPE_CHECKING:
    from pathlib import Path


def command(
    name: Annotated[
        str | None, typer.Argument(help="A search, whose charts the link shows. Default: all.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port on this machine's loopback.")] = 5000,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Open MLflow's own UI on the store that searches here write to, on loopback.

    It prints a link to the members of all fronts or, with a search's name, to a view of that
    search: a table with objectives and blocks, and charts of quality over costs.
    """
    import mlflow

    from nas_theseus.services.mlflow import without_credentials

    uri = mlflow.get_tracking_uri()
    if uri.startswith(("http://", "https://")):
        shown = without_credentials(uri)
        print(f"MLflow's server is {shown}; {_link(shown, name, storage)}")
        return
    _refuse_taken(port)
    print(f"{_link(f'http://127.0.0.1:{port}', name, storage)}  (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    # In place of this process, so that whoever ends it ends the server as well. One person reads:
    # four workers, MLflow's default, only start later.
    os.execv(
        sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    )


def _link(server: str, name: str | None, storage: Path) -> str:
    """What the link shows, and the link."""
    from nas_theseus.searches.folder import SearchFolder
    from nas_theseus.searches.records import Records
    from nas_theseus.services.mlflow import front_link
    from nas_theseus.services.mlflow.view import search_link

    if name is None:
        return f"the fronts: {front_link(server)}"
    records = Records.read(SearchFolder(storage, name))
    costs = records.costs
    goal = records.quality or records.goals[0]
    link = search_link(server, name, records.begun.identity, goal, [c for c in costs if c != goal])
    return f"search {name}: {link}"


def _refuse_taken(port: int) -> None:
    from nas_theseus.errors import ServiceError

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            message = f"MLflow's UI cannot use port {port}: {error}; choose another with --port"
            raise ServiceError(message) from error
