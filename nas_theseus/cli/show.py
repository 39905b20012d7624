"""A search and its front, shown in the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console

from nas_theseus.api.search import run_search
from nas_theseus.api.search_result import SearchResult
from nas_theseus.cli.options import DEFAULT_STORAGE
from nas_theseus.cli.tables import front_table
from nas_theseus.searches.report import (
    LiveReport,
    failure_lines,
    rungs_line,
    training_line,
)
from nas_theseus.space.sources import Sources
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.settings import SearchSettings


def show_search(
    sources: Sources, settings: SearchSettings, first: Sequence[Architecture] = ()
) -> None:
    """Run a search and show its progress and its front."""
    console = Console()
    console.print(f"search {settings.name} in {settings.storage}", highlight=False)
    report = LiveReport(console)
    status = None
    try:
        result = run_search(sources, settings, report, first)
        status = result.status
    except KeyboardInterrupt:
        # Caught here: typer would end the program without a word.
        message = "interrupted; the same command continues from here"
        Console(stderr=True).print(message, highlight=False)
        raise typer.Exit(130) from None
    finally:
        report.close(status)
    _show_result(result, settings, console)
    if result.failures and result.status.progress.done + result.status.progress.stopped <= 1:
        raise typer.Exit(1)  # nothing but the guide itself could be evaluated


def _show_result(result: SearchResult, settings: SearchSettings, console: Console) -> None:
    console.print(f"ended: {result.ended_because or 'nothing was left to run'}")
    console.print(training_line(result.status), highlight=False)
    console.print(rungs_line(result.status), highlight=False)
    for line in failure_lines(result.failures):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    rows = result.front
    title = f"front of {result.name}: {len(rows)} architectures"
    console.print(front_table(rows, title, console.width))
    guide = ", ".join(f"{name} {value:,.4g}" for name, value in result.guide.items())
    console.print(f"guide: {guide}", highlight=False)
    if result.undelivered:
        console.print(
            f"{result.undelivered} records are not delivered yet; they are in "
            f"{result.folder / 'outbox'}, and the next launch of this search delivers them"
        )
    front = f"nas-theseus front {result.name}"
    if settings.storage != DEFAULT_STORAGE:
        front += f" --storage {settings.storage}"
    lines = [f"front:     {front}  (picture: {result.folder / 'front' / 'front.html'})"]
    if (result.folder / "report.html").exists():
        lines.append(f"report:    {result.folder / 'report.html'}")
    if "mlflow" in settings.trackers:
        lines.append("MLflow:    nas-theseus ui  (query: tags.\"theseus.front\" = 'true')")
    if rows:
        best = result.folder / "front" / rows[-1]["architecture"]
        lines.append(f'a network: nas_theseus.load("{best}", trust_code=True)')
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def show_models(settings: SearchSettings) -> None:
    """Log the front's networks as models of MLflow, a line each."""
    from nas_theseus.api.registering import log_models

    console = Console()
    for one in log_models(settings.name, storage=settings.storage):
        state = "logged" if one.is_new else "was logged before"
        held = f"with its code: {one.reason}" if one.reason else "as a program"
        console.print(
            f"model {one.architecture} {state} {held}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def show_front(rows: list[dict[str, Any]], title: str, *, as_json: bool = False) -> None:
    """Rows of a front as a table or JSON."""
    console = Console()
    if as_json:
        print(json.dumps(rows, indent=1))
    elif rows:
        console.print(front_table(rows, title, console.width))
    else:
        console.print(title, highlight=False)
