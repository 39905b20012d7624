"""Commands about a model, a space or one network: parts, check, convert, export."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer()

SpaceFile = Annotated[Path, typer.Argument(help="Python file with a function space().")]
StorageOption = Annotated[
    Path, typer.Option("--storage", help="Folder for guides, searches, weights and results.")
]
DEFAULT_STORAGE = Path("theseus")


@app.command()
def parts(
    model: Annotated[
        str,
        typer.Argument(
            help="SPACE.py, or a model or Guide as module:callable (torchvision.models:resnet18)."
        ),
    ],
    inlet: Annotated[
        str, typer.Option(help="Shape of one input, for a module:callable.")
    ] = "3,224,224",
) -> None:
    """Where a model can be cut: names for cut(at=[…]), boundary shapes, parameters and MACs."""
    from nas_theseus.costs import cost_of
    from nas_theseus.guide.chain import Guide
    from nas_theseus.guide.cut import cut, cut_points
    from nas_theseus.search.report import plain_table, short_count
    from nas_theseus.space.load import load_space

    if model.endswith(".py"):
        guide = load_space(model).guide
        title = f"parts of the guide in {model}"
    else:
        guide = _model(model)
        title = f"parts of the guide {model}"
        if not isinstance(guide, Guide):
            shape = _shape(inlet)
            guide = cut(guide, [point.name for point in cut_points(guide, shape)], shape)
            title = f"{model} can be cut after these names (all of them cut here)"
    rows = []
    for index, (name, part) in enumerate(zip(guide.names, guide.parts, strict=True)):
        cost = cost_of(part, guide.boundaries[index])
        rows.append(
            [
                name,
                str(guide.boundaries[index + 1]),
                short_count(cost.params),
                short_count(cost.macs),
            ]
        )
    Console().print(plain_table(title, ["part", "boundary behind it", "params", "MACs"], rows))


def _model(text: str) -> Any:
    from nas_theseus.errors import SpaceError

    module, _, attribute = text.partition(":")
    sys.path.insert(0, os.getcwd())  # the user's own module, as `python -m` would find it
    try:
        return getattr(importlib.import_module(module), attribute)()
    except Exception as error:  # whatever the user's module or model raises
        raise SpaceError(
            text,
            [f"{error}; give SPACE.py or module:callable (torchvision.models:resnet18)"],
        ) from error


def _shape(text: str) -> tuple[int, ...]:
    from nas_theseus.errors import SpaceError

    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise SpaceError("--inlet", [f"{text!r} is not a shape such as 3,224,224"]) from error


@app.command()
def check(space: SpaceFile) -> None:
    """Every mistake of a search space at once, before any training; its size and cost range."""
    from nas_theseus.costs.table import CostTable
    from nas_theseus.search.beginning import refuse_mistakes
    from nas_theseus.search.report import plain_table, short_count
    from nas_theseus.space.load import load_space
    from nas_theseus.space.search_space import COSTS

    found = load_space(space)
    refuse_mistakes(found, space)
    found.task.data_hash()
    table = CostTable(found)
    guide = table.of_parts().known()
    rows = [
        [name, *(short_count(v) for v in table.range(name)), short_count(guide[name])]
        for name in COSTS
    ]
    console = Console()
    console.print(f"{space}: no mistakes; {found.count():,} architectures", highlight=False)
    console.print(plain_table("cost range", ["cost", "cheapest", "dearest", "guide"], rows))


@app.command()
def convert(
    space: SpaceFile,
    architecture: Annotated[
        str, typer.Option(help="Architecture id from a search in --storage, or a JSON file.")
    ],
    schedule: Annotated[
        str | None,
        typer.Option(help="progressive, sequential, independent, joint, naive, scratch or kd."),
    ] = None,
    order: Annotated[str | None, typer.Option(help="forward or reverse.")] = None,
    similarity: Annotated[str | None, typer.Option(help="cka, dmnn, regression, …")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any recipe setting; more than one."),
    ] = None,
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
    from nas_theseus.api.conversion import convert_one
    from nas_theseus.search.report import plain_table

    console = Console()
    options = {"schedule": schedule, "order": order, "similarity": similarity}
    changes = [f"{name}={value}" for name, value in options.items() if value is not None]
    result = convert_one(
        space, architecture, [*changes, *(settings or [])],
        seed=seed, device="cuda" if gpu else "cpu", out=out, storage=storage,
        say=lambda line: console.print(line, highlight=False), replacements=replacements,
    )  # fmt: skip
    evaluation = result.converted.evaluation
    if evaluation.similarities:
        console.print(plain_table("similarity per block after each stage", *result.table()))
    for name, value in evaluation.values().items():
        console.print(f"{name}: {value:,.6g}", highlight=False)
    pictures = ", ".join(sorted(path.name for path in out.glob("*.png")))
    console.print(
        f"pictures in {out}: {pictures}; MLflow run {result.run_id}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print(f'nas_theseus.load("{out}", trust_code=True) rebuilds it', highlight=False)


@app.command()
def export(
    network: Annotated[
        str,
        typer.Argument(
            metavar="RUN|PATH",
            help="MLflow run of a front member, its architecture id, or the folder of a network.",
        ),
    ],
    to: Annotated[str, typer.Option("--format", help="safetensors, torch-export or onnx.")],
    out: Annotated[
        Path | None, typer.Option(help="File; the architecture's id in this folder by default.")
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Consent to run the network's own space.py.")
    ] = False,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Write a found network as one file, kept only if it gives what the network gives."""
    from nas_theseus.api.found import find_network
    from nas_theseus.export.formats import format_of, write_format

    chosen = format_of(to)  # before minutes of download
    member = find_network(network, storage, trust_code=trust_code)
    path = out or Path(f"{member.evaluation.architecture.id}{chosen.suffix}")
    checked = write_format(member, to, path)
    batches = " and ".join(map(str, checked.batch_sizes))
    print(
        f"{checked.path}: {checked.size_bytes:,} bytes\n"
        f"checked on {checked.examples} validation inputs in batches of {batches}: outputs differ "
        f"by at most {checked.difference:.3g} ({checked.relative:.3g} of the largest output)"
    )
