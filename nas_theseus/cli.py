"""The command line: reads arguments, calls, prints. Run ``nas-theseus --help``."""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from nas_theseus import library_commands

if TYPE_CHECKING:
    from nas_theseus.settings import SearchSettings

# torch, Ray and MLflow take seconds to import, so commands import what they need; --help is quick.

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help=(
        "Find the best networks for other budgets by converting one that works (the guide), "
        "block by block, instead of training each candidate from scratch.\n\n"
        "Start: nas-theseus search search_spaces/digits.py; then nas-theseus front digits, and "
        "nas-theseus ui.\n\n"
        "Everything goes under --storage (./theseus): guides/ holds trained guides, library/ "
        "converted blocks, searches/NAME/ the study, evaluations, weights and the front. MLflow's "
        "records go to ./mlflow.db and ./mlruns, or to MLFLOW_TRACKING_URI."
    ),
)

app.add_typer(library_commands.app, name="library")

SpaceFile = Annotated[Path, typer.Argument(help="Python file with a function space().")]
StorageOption = Annotated[
    Path, typer.Option("--storage", help="Folder for guides, searches, weights and results.")
]
DEFAULT_STORAGE = Path("theseus")


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Options before the command."""
    if debug:
        os.environ["NAS_THESEUS_DEBUG"] = "1"


@app.command()
def search(
    space: SpaceFile,
    name: Annotated[
        str | None,
        typer.Option(help="Search name; the file's name by default. An existing one goes on."),
    ] = None,
    trials: Annotated[int, typer.Option(help="Architectures to evaluate in all.")] = 20,
    parallel: Annotated[
        int | None, typer.Option(help="Trials at once; what the machine has room for.")
    ] = None,
    time_budget: Annotated[
        float | None, typer.Option(help="Seconds after which no new trial starts.")
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
    study: Annotated[
        str | None, typer.Option(help="Optuna storage URL; a journal file in --storage.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="theseus, tpe, gp, nsga2, nsga3 or random.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of proposals and trials.")] = None,
    library: Annotated[
        str | None,
        typer.Option(
            metavar="LOCATION",
            help="Where converted blocks are kept, a folder or an fsspec address; library/ in "
            "--storage.",
        ),
    ] = None,
    no_library: Annotated[
        bool, typer.Option("--no-library", help="Convert every candidate by itself.")
    ] = False,
    no_rungs: Annotated[
        bool, typer.Option("--no-rungs", help="Train every candidate to its end.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join, such as auto; else this machine.")
    ] = None,
    cpus_per_trial: Annotated[float, typer.Option(help="CPU cores of one trial.")] = 1.0,
    gpus_per_trial: Annotated[
        float, typer.Option(help="GPUs of one trial; 0.5 puts two on one GPU.")
    ] = 0.0,
) -> None:
    """Run a search, or go on with the one of this name (finished trials stay).

    Before it starts it says how long it will take. Ctrl-C or kill at any moment; the same command
    continues.
    """
    from nas_theseus.errors import SpaceError
    from nas_theseus.settings import SearchSettings, validated

    if no_library and library is not None:
        raise SpaceError("search", ["--library and --no-library: give one of them"])
    given: dict[str, Any] = {
        "name": name or space.stem, "trials": trials, "parallel": parallel,
        "time_budget_s": time_budget, "storage": storage, "study_url": study,
        "sampler": sampler, "seed": seed, "address": address,
        "library": False if no_library else True if library is None else library,
        "rungs": not no_rungs, "cpus_per_trial": cpus_per_trial, "gpus_per_trial": gpus_per_trial,
    }  # fmt: skip
    kept = _kept_settings(storage, str(given["name"]))
    for key in ("sampler", "seed"):
        if given[key] is None:
            given.pop(key)
            if key in kept:
                given[key] = kept[key]
    if library is None and kept.get("library") is False:
        given["library"] = False
    if kept and not kept.get("rungs", False):
        given["rungs"] = False
    _search(space, validated(SearchSettings, given, "search"))


def _kept_settings(storage: Path, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(
            (storage / "searches" / name / "settings.json").read_text()
        )
        return found
    except (OSError, ValueError):
        return {}


def _search(space: Path, settings: SearchSettings) -> None:
    console = Console()
    console.print(f"search {settings.name} in {settings.storage}", highlight=False)
    from nas_theseus.front import front_rows
    from nas_theseus.report import LiveReport, front_table, rungs_line, training_line
    from nas_theseus.search import run_search

    report = LiveReport(console)
    state = None
    try:
        result = run_search(space, settings, report)
        state = result.state
    except KeyboardInterrupt:
        # Caught here: typer would end the program without a word.
        message = "interrupted; the same command goes on from here"
        Console(stderr=True).print(message, highlight=False)
        raise typer.Exit(130) from None
    finally:
        report.close(state)
    console.print(f"ended: {result.state.ended_because or 'nothing was left to run'}")
    console.print(training_line(result.state), highlight=False)
    console.print(rungs_line(result.state), highlight=False)
    rows = front_rows(result.front)
    title = f"front of {result.name}: {len(rows)} architectures"
    console.print(front_table(rows, title, console.width))
    guide = ", ".join(f"{name} {value:,.4g}" for name, value in result.guide.items())
    console.print(f"guide: {guide}", highlight=False)
    if result.undelivered:
        console.print(
            f"{result.undelivered} records wait for MLflow in {result.folder / 'outbox'}; "
            "the next start of this search delivers them"
        )
    console.print(
        f"front:     nas-theseus front {result.name}"
        + ("" if settings.storage == DEFAULT_STORAGE else f" --storage {settings.storage}")
        + f"  (picture: {result.folder / 'front' / 'front.html'})\n"
        "MLflow:    nas-theseus ui  (query: tags.\"theseus.front\" = 'true')",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if rows:
        best = result.folder / "front" / rows[-1]["architecture"]
        console.print(
            f'a network: nas_theseus.load("{best}", trust_code=True)',
            highlight=False, soft_wrap=True,
        )  # fmt: skip


@app.command()
def front(
    name: Annotated[str, typer.Argument(help="Search name.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    where: Annotated[
        str | None,
        typer.Option(
            help="Conditions on the members, such as 'macs < 2e6 and val_accuracy > 0.9'."
        ),
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """The front of a search, finished or running: what no other evaluation dominates."""
    from nas_theseus.errors import SpaceError
    from nas_theseus.front import front_rows, read_front
    from nas_theseus.report import front_table
    from nas_theseus.settings import matches
    from nas_theseus.storage import Storage

    rows = front_rows(read_front(Storage(storage, name)))
    title = f"front of {name}: {len(rows)} architectures"
    if where:
        try:
            texts = {"architecture", "pairing", "blocks", "run_id"}
            names = {name: float("nan") for row in rows for name in row if name not in texts}
            # What a member does not have (not tested yet) is NaN, which meets no condition.
            rows = [
                row
                for row in rows
                if matches(names | {k: v for k, v in row.items() if k not in texts}, where)
            ]
        except ValueError as error:
            raise SpaceError("--where", [str(error)]) from error
        title += f", {len(rows)} of them with {where}"
    console = Console()
    if as_json:
        print(json.dumps(rows, indent=1))
    elif rows:
        console.print(front_table(rows, title, console.width))
    else:
        console.print(title, highlight=False)


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
    from nas_theseus.guide import Guide, cut, cut_points
    from nas_theseus.report import plain_table, short_count
    from nas_theseus.space import load_space

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
    from nas_theseus.kept import refuse_mistakes
    from nas_theseus.report import plain_table, short_count
    from nas_theseus.space import COSTS, load_space

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
    from nas_theseus.conversion import convert_one
    from nas_theseus.report import plain_table

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
    from nas_theseus.comparison import compare
    from nas_theseus.report import plain_table
    from nas_theseus.settings import SearchSettings, assigned, validated
    from nas_theseus.stitch.cells import StitchRecipe
    from nas_theseus.stitch.sources import pairs_of, read_sources

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
    from nas_theseus.formats import format_of, write_format
    from nas_theseus.found import find_network

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


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine's loopback.")] = 5000,
) -> None:
    """Open MLflow's own UI on the store that searches here write to, on loopback."""
    import mlflow

    from nas_theseus.services.tracking import front_link, without_credentials

    uri = mlflow.get_tracking_uri()
    if uri.startswith(("http://", "https://")):
        shown = without_credentials(uri)
        print(f"MLflow's server is {shown}; the fronts: {front_link(shown)}")
        return
    _free(port)
    print(f"the fronts: {front_link(f'http://127.0.0.1:{port}')}  (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    # In place of this process, so that whoever ends it ends the server as well. One person reads:
    # four workers, MLflow's default, only start later.
    os.execv(
        sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    )


def _free(port: int) -> None:
    from nas_theseus.errors import ServiceError

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            message = f"MLflow's UI cannot have port {port}: {error}; choose another with --port"
            raise ServiceError(message) from error


def main() -> None:
    """Entry point: errors a user can mend are printed without a traceback and end with 2."""
    from nas_theseus.errors import TheseusError

    try:
        app()
    except TheseusError as error:
        if os.environ.get("NAS_THESEUS_DEBUG"):
            raise
        Console(stderr=True).print(f"error: {error}", style="red", highlight=False, markup=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
