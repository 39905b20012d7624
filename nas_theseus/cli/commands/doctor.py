"""``nas-theseus doctor``: what is missing on this machine, and how to mend it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from nas_theseus.cli.options import DEFAULT_STORAGE, AddressOption, StorageOption, StudyOption

_STYLES = {"ok": "green", "missing": "yellow", "broken": "red"}


def command(
    storage: StorageOption = DEFAULT_STORAGE,
    study: StudyOption = None,
    address: AddressOption = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Start Ray, or join --address; takes some seconds.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Say what is missing or broken on this machine, and how to mend it.

    Packages and their versions, GPUs, data, the storage folder, Ray, Optuna and MLflow. The exit
    status is 1 if a search cannot run; what only some searches need is marked as optional.
    """
    from nas_theseus.api.doctor import Asked, diagnose

    found = diagnose(Asked(storage, study, address, ray))
    if as_json:
        print(json.dumps([asdict(finding) for finding in found], indent=1))
    else:
        console = Console()
        for finding in found:
            optional = "" if finding.needed or finding.state == "ok" else " (optional)"
            remedy = f" → {finding.remedy}" if finding.remedy else ""
            line = Text(f"{finding.state:8}", style=_STYLES[finding.state])
            line.append(f"{finding.subject}{optional}: {finding.said}{remedy}", style="default")
            console.print(line, highlight=False, soft_wrap=True)
    if any(finding.stops for finding in found):
        raise typer.Exit(1)
