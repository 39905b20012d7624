"""``nas-theseus stitch``: how well representations of networks fit together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from nas_theseus.cli.options import DEFAULT_STORAGE, StorageOption

if TYPE_CHECKING:
    from nas_theseus.stitching.matrix import Comparison


def command(
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
        str,
        typer.Option(help="For ready networks: fashion-mnist, digits or a folder of images."),
    ] = "fashion-mnist",
    width: Annotated[int, typer.Option(help="First stage of resnetXXXX; the source's is 64.")] = 16,
    train_epochs: Annotated[float, typer.Option(help="Epochs of ready networks.")] = 4.0,
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
        str | None, typer.Option(help="Ray cluster to join, such as auto. Default: this machine.")
    ] = None,
    cpus_per_trial: Annotated[float, typer.Option(help="CPU cores of one row.")] = 1.0,
    gpus_per_trial: Annotated[float, typer.Option(help="GPUs of one row.")] = 0.0,
) -> None:
    """Stitch every boundary of A into every one of B: quality and CKA matrices, four controls.

    Only the stitch trains. Each cell is saved when it is measured; the same command continues.
    Matrices, heatmaps and JSON go to --storage/stitching and to MLflow.
    """
    from nas_theseus.api.stitch import ComparisonSettings, compare
    from nas_theseus.stitching.cells import StitchRecipe
    from nas_theseus.stitching.named_networks import pairs_of, read_sources
    from nas_theseus.values.validation import assigned, validated

    console = Console()
    pairs = pairs_of(read_sources(networks, task, width, train_epochs), every)
    recipe = assigned(StitchRecipe(), settings or [], "stitches")
    resources = {"cpus": cpus_per_trial, "gpus": gpus_per_trial}
    execution = {"parallel": parallel, "address": address, "resources": resources}
    given = {"storage": storage, "seed": seed, "execution": execution}
    run_settings = validated(ComparisonSettings, given, "stitch")
    compared = compare(
        pairs, recipe, run_settings, lambda line: console.print(line, highlight=False)
    )
    for found, folder in compared:
        _show(found, folder, console)


def _show(found: Comparison, folder: Path, console: Console) -> None:
    """One pair's matrix of both trained networks, and the means of all."""
    from nas_theseus.cli.tables import plain_table

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
