"""The command line: reads arguments, calls, prints. Run ``nas-theseus --help``."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from nas_theseus.cli import library_commands as library_commands
from nas_theseus.cli import network_commands as network_commands
from nas_theseus.cli import stitch_commands as stitch_commands
from nas_theseus.cli.network_commands import DEFAULT_STORAGE, SpaceFile, StorageOption

if TYPE_CHECKING:
    from nas_theseus.search.budget import Answer
    from nas_theseus.space.sources import Sources
    from nas_theseus.values.architecture import Architecture
    from nas_theseus.values.settings import SearchSettings

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

app.add_typer(network_commands.app)
app.add_typer(stitch_commands.app)
app.add_typer(library_commands.app, name="library")

Parallel = Annotated[
    str,
    typer.Option(
        metavar="N|auto", help="Trials at once; auto: what the machine or cluster has room for."
    ),
]
StudyUrl = Annotated[
    str | None,
    typer.Option(
        envvar="NAS_THESEUS_STUDY",
        show_envvar=True,
        help="Optuna storage URL; a journal file in --storage.",
    ),
]
LibraryPlace = Annotated[
    str | None,
    typer.Option(
        metavar="LOCATION",
        help="Where converted blocks are kept, a folder or an fsspec address; library/ in "
        "--storage.",
    ),
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to join, such as auto; else this machine.")
]
CpusPerTrial = Annotated[float, typer.Option(help="CPU cores of one trial.")]
GpusPerTrial = Annotated[float, typer.Option(help="GPUs of one trial; 0.5 puts two on one GPU.")]
AcceleratorType = Annotated[
    str | None,
    typer.Option(help="GPUs of this type alone, as Ray names it: A100, H100, T4; any type."),
]


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
    parallel: Parallel = "auto",
    time_budget: Annotated[
        float | None, typer.Option(help="Seconds after which no new trial starts.")
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
    study: StudyUrl = None,
    sampler: Annotated[
        str | None, typer.Option(help="theseus, tpe, gp, nsga2, nsga3 or random.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of proposals and trials.")] = None,
    suggestions: Annotated[
        int | None,
        typer.Option(help="Trials to begin with whose blocks, stitched into the guide, fit best."),
    ] = None,
    library: LibraryPlace = None,
    no_library: Annotated[
        bool, typer.Option("--no-library", help="Convert every candidate by itself.")
    ] = False,
    no_rungs: Annotated[
        bool, typer.Option("--no-rungs", help="Train every candidate to its end.")
    ] = False,
    address: Address = None,
    cpus_per_trial: CpusPerTrial = 1.0,
    gpus_per_trial: GpusPerTrial = 0.0,
    accelerator_type: AcceleratorType = None,
) -> None:
    """Run a search, or go on with the one of this name (finished trials stay).

    Before it starts it says how long it will take. Ctrl-C or kill at any moment; the same command
    continues.
    """
    from nas_theseus.errors import SpaceError
    from nas_theseus.space.consent import remember
    from nas_theseus.space.sources import gather
    from nas_theseus.values.settings import SearchSettings
    from nas_theseus.values.validation import validated

    if no_library and library is not None:
        raise SpaceError("search", ["--library and --no-library: give one of them"])
    given: dict[str, Any] = {
        "name": name or space.stem, "trials": trials, "parallel": parallel,
        "time_budget_s": time_budget, "storage": storage, "study_url": study,
        "sampler": sampler, "seed": seed, "suggestions": suggestions, "address": address,
        "library": False if no_library else True if library is None else library,
        "rungs": not no_rungs, "cpus_per_trial": cpus_per_trial, "gpus_per_trial": gpus_per_trial,
        "accelerator_type": accelerator_type,
    }  # fmt: skip
    kept = _kept_settings(storage, str(given["name"]))
    for key in ("sampler", "seed", "suggestions"):
        if given[key] is None:
            given.pop(key)
            if key in kept:
                given[key] = kept[key]
    if library is None and kept.get("library") is False:
        given["library"] = False
    if kept and not kept.get("rungs", False):
        given["rungs"] = False
    sources = gather(space)
    remember(sources)
    _search(sources, validated(SearchSettings, given, "search"))


def _kept_settings(storage: Path, name: str) -> dict[str, Any]:
    from nas_theseus.search.folder import SearchFolder

    try:
        found: dict[str, Any] = json.loads(SearchFolder(storage, name).settings_file.read_text())
        return found
    except (OSError, ValueError):
        return {}


def _search(space: Sources, settings: SearchSettings, first: Sequence[Architecture] = ()) -> None:
    console = Console()
    console.print(f"search {settings.name} in {settings.storage}", highlight=False)
    from nas_theseus.search.front_files import front_rows
    from nas_theseus.search.report import LiveReport, front_table, rungs_line, training_line
    from nas_theseus.search.run import run_search

    report = LiveReport(console)
    state = None
    try:
        result = run_search(space, settings, report, first)
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
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BUDGET",
            help="A new budget, such as 'macs <= 5e6 and params <= 1e5': what was evaluated under "
            "it, and what the search's estimate predicts to be best; nothing is trained.",
        ),
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="With --at: then evaluate the best prediction.")
    ] = False,
    count: Annotated[int, typer.Option(min=1, help="With --at: how many are predicted.")] = 5,
    distance: Annotated[
        int, typer.Option(min=1, help="With --at: in how many guide parts they differ at least.")
    ] = 2,
    trust_code: Annotated[
        bool,
        typer.Option(
            "--trust-code",
            help="With --at: consent to run the search's space.py, where it is not yours.",
        ),
    ] = False,
    storage: StorageOption = DEFAULT_STORAGE,
    library: LibraryPlace = None,
    study: StudyUrl = None,
    parallel: Parallel = "auto",
    address: Address = None,
    cpus_per_trial: CpusPerTrial = 1.0,
    gpus_per_trial: GpusPerTrial = 0.0,
    accelerator_type: AcceleratorType = None,
) -> None:
    """The front of a search, finished or running: what no other evaluation dominates.

    With --at it answers a new budget without any training. --refine adds one trial to the search,
    as its --study, --library and trial options say; once more, the next best prediction.
    """
    from nas_theseus.errors import SpaceError
    from nas_theseus.search.folder import SearchFolder
    from nas_theseus.search.front_files import front_rows, read_front

    kept = SearchFolder(storage, name)
    if at is None:
        if refine or trust_code:
            raise SpaceError("front", ["--refine and --trust-code go with --at BUDGET"])
        _show_front(front_rows(read_front(kept)), f"front of {name}", as_json, where)
        return
    if where or (refine and as_json):
        raise SpaceError("front", ["--at goes without --where, and --refine without --json"])
    from nas_theseus.search.budget import answer, parse_budget
    from nas_theseus.space.consent import runnable
    from nas_theseus.space.sources import read_sources
    from nas_theseus.values.settings import SearchSettings
    from nas_theseus.values.validation import validated

    budget = parse_budget(" and ".join(at))
    found = answer(
        kept, budget, count, distance=distance, library=library, trust_code=trust_code
    )  # fmt: skip
    title = f"{name} with {' and '.join(map(str, budget))}"
    _show_answer(found, title, as_json)
    if not refine or not found.predicted:
        return
    begun = _kept_settings(storage, name)
    given = {
        "name": name, "parallel": parallel, "storage": storage, "study_url": study,
        "library": begun["library"] and (library or True), "sampler": begun["sampler"],
        "seed": begun["seed"], "suggestions": begun.get("suggestions", 0),
        "rungs": begun.get("rungs", False), "address": address,
        "cpus_per_trial": cpus_per_trial, "gpus_per_trial": gpus_per_trial,
        "accelerator_type": accelerator_type,
    }  # fmt: skip
    space = runnable(read_sources(kept.folder), kept.folder, trust_code=trust_code)
    best = found.predicted[0].architecture
    _search(space, validated(SearchSettings, given, "front"), [best])
    _show_front(front_rows(read_front(kept, budget)), f"evaluated of {title}")


def _show_front(
    rows: list[dict[str, Any]], title: str, as_json: bool = False, where: str | None = None
) -> None:
    from nas_theseus.errors import SpaceError
    from nas_theseus.search.report import front_table
    from nas_theseus.values.conditions import matches

    title += f": {len(rows)} architectures"
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


def _show_answer(found: Answer, title: str, as_json: bool) -> None:
    from nas_theseus.search.front_files import front_rows
    from nas_theseus.search.report import predicted_table

    evaluated, predicted = front_rows(found.evaluated), found.rows()
    if as_json:
        shown = {"evaluated": evaluated, "predicted": predicted, "epsilon": found.epsilon}
        print(json.dumps(shown, indent=1))
        return
    _show_front(evaluated, f"evaluated of {title}")
    console = Console()
    if not predicted:
        console.print("nothing else to predict: all under it was evaluated or cannot be converted")
        return
    console.print(predicted_table(predicted, found.metric, f"predicted of {title}", console.width))
    if found.epsilon:
        console.print(f"predictions are the best up to {found.epsilon:.0%} of each cost")


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine's loopback.")] = 5000,
) -> None:
    """Open MLflow's own UI on the store that searches here write to, on loopback."""
    import mlflow

    from nas_theseus.services.mlflow import front_link, without_credentials

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
