"""Commands about how networks fit together: stitch, switch."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from nas_theseus.cli.network_commands import DEFAULT_STORAGE, StorageOption

app = typer.Typer()


@app.command()
def stitch(
    networks: Annotated[
        list[str],
        typer.Argument(
            metavar="A [B]",
            help="Sender and receiver: SPACE.py for its guide, resnet18, resnet34 or resnet1212; "
            "@1 behind a name is another seed. One network meets itself with another seed; "
            "small-resnets are all sixteen ResNet(x,x,x,x).",
        ),
    ],
    every: Annotated[
        bool, typer.Option("--all", help="Every ordered pair of the networks given.")
    ] = False,
    task: Annotated[
        str, typer.Option(help="Of ready networks: fashion-mnist, digits or a folder of images.")
    ] = "fashion-mnist",
    width: Annotated[int, typer.Option(help="First stage of resnetXXXX; the source's is 64.")] = 16,
    train_epochs: Annotated[float, typer.Option(help="That ready networks train.")] = 4.0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Stitches: start=kaiming, loss=representation, examples=, epochs=, …",
        ),
    ] = None,
    parallel: Annotated[int | None, typer.Option(help="Rows at once.")] = None,
    storage: StorageOption = DEFAULT_STORAGE,
    seed: Annotated[int, typer.Option(help="Seed of the stitches.")] = 0,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join, such as auto; else this machine.")
    ] = None,
    cpus_per_trial: Annotated[float, typer.Option(help="CPU cores of one row.")] = 1.0,
    gpus_per_trial: Annotated[float, typer.Option(help="GPUs of one row.")] = 0.0,
) -> None:
    """Stitch every boundary of A into every one of B: quality and CKA matrices, four controls.

    Only the stitch trains. Each cell is kept as it ends; the same command goes on. Matrices,
    heatmaps and JSON go to --storage/stitching and to MLflow.
    """
    from nas_theseus.api.comparison import compare
    from nas_theseus.search.report import plain_table
    from nas_theseus.stitch.cells import StitchRecipe
    from nas_theseus.stitch.sources import pairs_of, read_sources
    from nas_theseus.values.settings import SearchSettings
    from nas_theseus.values.validation import assigned, validated

    console = Console()
    pairs = pairs_of(read_sources(networks, task, width, train_epochs), every)
    recipe = assigned(StitchRecipe(), settings or [], "stitches")
    given = {
        "name": "stitching", "storage": storage, "seed": seed, "parallel": parallel,
        "address": address, "cpus_per_trial": cpus_per_trial, "gpus_per_trial": gpus_per_trial,
    }  # fmt: skip
    run_settings = validated(SearchSettings, given, "stitch")
    for found, folder in compare(
        pairs, recipe, run_settings, lambda line: console.print(line, highlight=False)
    ):
        title = f"{found.sender} (rows) into {found.receiver}, both trained"
        table = [
            [name, *("" if value is None else f"{value:.3f}" for value in row)]
            for name, row in zip(found.rows, found.quality["trained-trained"], strict=True)
        ]
        console.print(plain_table(title, ["sender", *found.columns], table))
        for name, value in found.means().items():
            console.print(f"mean {name}: {value:.4f}", highlight=False)
        triangle = found.triangle_difference()
        if triangle is not None:
            console.print(f"sender later minus earlier: {triangle:+.4f}", highlight=False)
        console.print(f"heatmaps and JSON: {folder}", highlight=False, soft_wrap=True)


@app.command()
def switch(
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

    from nas_theseus.api.switching import SwitchingSettings, switch
    from nas_theseus.search.folder import SearchFolder
    from nas_theseus.search.report import plain_table, short_count
    from nas_theseus.values.recipe import Recipe
    from nas_theseus.values.validation import assigned

    console = Console()
    recipe = assigned(Recipe(epochs=4, learning_rate=2e-3), settings or [], "training")
    made = SwitchingSettings(size=size, direction=direction, seed=seed)  # type: ignore[arg-type]
    _, rows, folder = switch(
        SearchFolder(storage, name), recipe, made, device=torch.device("cuda" if gpu else "cpu"),
        trust_code=trust_code, say=lambda line: console.print(line, highlight=False),
    )  # fmt: skip
    *_, metric = rows[0]
    table = [
        [
            row["network"], str(row["index"]), short_count(row["macs"]),
            short_count(row["params"]), f"{row[metric]:.4f}",
        ]
        for row in rows
    ]  # fmt: skip
    columns = ["network", "select", "MACs", "params", metric]
    console.print(plain_table(f"{name} as one network", columns, table))
    console.print(f"weights, table, picture: {folder}", highlight=False, soft_wrap=True)
    console.print(
        f'load_switching(SearchFolder(Path("{storage}"), "{name}")) loads it',
        highlight=False, soft_wrap=True,
    )  # fmt: skip
