"""``nas-theseus report``: what a search has found, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nas_theseus.cli.options import DEFAULT_STORAGE, StorageOption


def command(
    name: Annotated[str, typer.Argument(help="Name of the search.")],
    out: Annotated[
        Path | None,
        typer.Option(help="File to write. Default: STORAGE/searches/NAME/report.html."),
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Write what a search has found, finished or not, as one HTML file for any browser.

    The front with the guide, which network to take for which budget, progress, early stopping,
    which blocks win where, predictions and costs. No network is needed to read it, and nothing is
    trained.
    """
    from nas_theseus.api.reporting import report

    done = report(name, storage=storage, out=out)
    console = Console()
    console.print(done.state, highlight=False, soft_wrap=True, markup=False)
    console.print(f"report: {done.path}", highlight=False, soft_wrap=True, markup=False)
