"""``nas-theseus convert``: one conversion in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nas_theseus.cli.options import DEFAULT_STORAGE, SettingsOption, SpaceFile, StorageOption
from nas_theseus.values.registers import SCHEDULES, SIMILARITIES


def command(
    space: SpaceFile,
    architecture: Annotated[
        str,
        typer.Option(
            help="ID or SEARCH/ID of an architecture that a search evaluated, its JSON file, or "
            "the folder of a found network."
        ),
    ],
    schedule: Annotated[
        str | None,
        typer.Option(help=f"{SCHEDULES.one_of}."),
    ] = None,
    order: Annotated[str | None, typer.Option(help="forward or reverse.")] = None,
    similarity: Annotated[str | None, typer.Option(help=f"{SIMILARITIES.one_of}.")] = None,
    settings: SettingsOption = None,
    replacements: Annotated[
        bool,
        typer.Option(
            "--replacements",
            help="Score the network after every stage, of this schedule and naive, both orders.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the conversion.")] = 0,
    gpu: Annotated[bool, typer.Option(help="Convert on the GPU.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the converted network.")] = Path(
        "converted"
    ),
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Convert one architecture here, show similarity per part over stages, keep the network.

    The network and pictures of the conversion go to --out and to MLflow.
    """
    from nas_theseus.api.convert import ConversionSettings, convert_one
    from nas_theseus.cli.tables import plain_table

    console = Console()
    options = {"schedule": schedule, "order": order, "similarity": similarity}
    changes = [f"{name}={value}" for name, value in options.items() if value is not None]
    made = ConversionSettings(out, storage, seed, "cuda" if gpu else "cpu", replacements)
    result = convert_one(
        space,
        architecture,
        [*changes, *(settings or [])],
        made,
        lambda line: console.print(line, highlight=False),
    )
    evaluation = result.evaluation
    if evaluation.similarities:
        console.print(plain_table("similarity per block after each stage", *result.table()))
    for name, value in evaluation.values().items():
        console.print(f"{name}: {value:,.6g}", highlight=False)
    pictures = ", ".join(sorted(path.name for path in out.glob("*.png")))
    console.print(
        f"pictures in {out}: {pictures}; MLflow run {result.run_id}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f'nas_theseus.load("{out}", trust_code=True) rebuilds it', highlight=False)
