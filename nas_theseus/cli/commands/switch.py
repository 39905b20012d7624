"""``nas-theseus switch``: a front as one network whose cost is switched at run time."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from nas_theseus.cli.options import DEFAULT_STORAGE, StorageOption


def command(
    name: Annotated[str, typer.Argument(help="Search name.")],
    size: Annotated[int, typer.Option(help="Of the sliding windows.")] = 1,
    direction: Annotated[
        str, typer.Option(help="fast-to-slow: in by the cheaper network; or slow-to-fast.")
    ] = "fast-to-slow",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Training: epochs=, learning_rate=, …"),
    ] = None,
    trust_code: Annotated[
        bool,
        typer.Option(
            "--trust-code", help="Consent to run the search's space.py, where it is not yours."
        ),
    ] = False,
    storage: StorageOption = DEFAULT_STORAGE,
    seed: Annotated[int, typer.Option(help="Seed of the stitches and of their training.")] = 0,
    gpu: Annotated[bool, typer.Option(help="Train on the GPU.")] = False,
) -> None:
    """Make one network of a search's front, whose cost is switched at run time.

    The guide and the front's members are stitched together (least squares), then all networks
    between them are trained at once. Weights, table and picture go to the search's folder and to
    MLflow.
    """
    import torch

    from nas_theseus.api.switch import SwitchingSettings, switch_front
    from nas_theseus.cli.tables import plain_table
    from nas_theseus.searches.figures import short_count
    from nas_theseus.searches.folder import SearchFolder
    from nas_theseus.values.recipe import Recipe
    from nas_theseus.values.validation import assigned

    console = Console()
    recipe = assigned(Recipe(epochs=4, learning_rate=2e-3), settings or [], "training")
    made = SwitchingSettings(size=size, direction=direction, seed=seed)  # type: ignore[arg-type]
    _, rows, folder = switch_front(
        SearchFolder(storage, name),
        recipe,
        made,
        device=torch.device("cuda" if gpu else "cpu"),
        trust_code=trust_code,
        say=lambda line: console.print(line, highlight=False),
    )
    *_, metric = rows[0]
    table = [
        [
            row["network"],
            str(row["index"]),
            short_count(row["macs"]),
            short_count(row["params"]),
            f"{row[metric]:.4f}",
        ]
        for row in rows
    ]
    columns = ["network", "select", "MACs", "params", metric]
    console.print(plain_table(f"{name} as one network", columns, table))
    console.print(f"weights, table, picture: {folder}", highlight=False, soft_wrap=True)
    console.print(
        f'load_switching(SearchFolder(Path("{storage}"), "{name}")) loads it',
        highlight=False,
        soft_wrap=True,
    )
