"""``nas-theseus front``: the front of a search, also under another budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from nas_theseus.cli.options import (
    DEFAULT_STORAGE,
    AcceleratorOption,
    AddressOption,
    CpusOption,
    ExecutorOption,
    GpusOption,
    LibraryOption,
    ParallelOption,
    StorageOption,
    StudyOption,
    TrustOption,
)

if TYPE_CHECKING:
    from nas_theseus.searches.budget import Answer


def command(
    name: Annotated[str, typer.Argument(help="Name of the search.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    where: Annotated[
        str | None,
        typer.Option(
            help="Only members that meet conditions: 'macs < 2e6 and val_accuracy > 0.9'."
        ),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BUDGET",
            help="Another budget, such as 'macs <= 5e6 and params <= 1e5': architectures within "
            "it, evaluated ones and ones predicted to be better. Nothing is trained.",
        ),
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="With --at: evaluate the best prediction, too.")
    ] = False,
    count: Annotated[int, typer.Option(min=1, help="With --at: number of predictions.")] = 5,
    distance: Annotated[
        int, typer.Option(min=1, help="With --at: guide parts in which they differ at least.")
    ] = 2,
    trust_code: TrustOption = False,
    storage: StorageOption = DEFAULT_STORAGE,
    library: LibraryOption = None,
    study: StudyOption = None,
    parallel: ParallelOption = "auto",
    executor: ExecutorOption = "ray",
    address: AddressOption = None,
    cpus_per_trial: CpusOption = 1.0,
    gpus_per_trial: GpusOption = 0.0,
    accelerator_type: AcceleratorOption = None,
) -> None:
    """Show the front of a search, finished or running: what no other evaluation dominates.

    With --at it answers another budget without any training. --refine adds one trial to the
    search; run again, it evaluates the next best prediction.
    """
    from nas_theseus.api.search import settings_of
    from nas_theseus.cli.show import show_front, show_search
    from nas_theseus.errors import SpaceError
    from nas_theseus.searches.budget import answer, parse_budget
    from nas_theseus.searches.folder import SearchFolder
    from nas_theseus.searches.front_files import front_rows, read_front
    from nas_theseus.space.consent import runnable
    from nas_theseus.space.sources import read_sources

    folder = SearchFolder(storage, name)
    if at is None:
        if refine or trust_code:
            raise SpaceError("front", ["--refine and --trust-code need --at BUDGET"])
        rows = front_rows(read_front(folder))
        title = f"front of {name}: {len(rows)} architectures"
        if where:
            rows = _matching(rows, where)
            title += f", {len(rows)} of them with {where}"
        show_front(rows, title, as_json=as_json)
        return
    if where or (refine and as_json):
        raise SpaceError("front", ["--at excludes --where, and --refine excludes --json"])
    budget = parse_budget(" and ".join(at))
    found = answer(folder, budget, count, distance=distance, library=library, trust_code=trust_code)
    title = f"{name} with {' and '.join(map(str, budget))}"
    _show_answer(found, title, as_json)
    if not refine or not found.predicted:
        return
    sources = runnable(read_sources(folder.folder), folder.folder, trust_code=trust_code)
    options = {
        "name": name,
        "storage": storage,
        "study_url": study,
        "library": library,
        "parallel": parallel,
        "executor": executor,
        "address": address,
        "cpus_per_trial": cpus_per_trial,
        "gpus_per_trial": gpus_per_trial,
        "accelerator_type": accelerator_type,
    }
    settings = settings_of(Path(sources.path), options, "front")
    show_search(sources, settings, [found.predicted[0].architecture])
    rows = front_rows(read_front(folder, budget))
    show_front(rows, f"evaluated of {title}: {len(rows)} architectures")


def _matching(rows: list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """The rows that meet conditions."""
    from nas_theseus.errors import SpaceError
    from nas_theseus.values.conditions import matches

    texts = {"architecture", "pairing", "blocks", "run_id"}
    # What a member does not have (not tested yet) is NaN, which meets no condition.
    names = {name: float("nan") for row in rows for name in row if name not in texts}
    try:
        return [
            row
            for row in rows
            if matches(names | {k: v for k, v in row.items() if k not in texts}, where)
        ]
    except ValueError as error:
        raise SpaceError("--where", [str(error)]) from error


def _show_answer(found: Answer, title: str, as_json: bool) -> None:
    from nas_theseus.cli.show import show_front
    from nas_theseus.cli.tables import predicted_table
    from nas_theseus.searches.front_files import front_rows

    evaluated, predicted = front_rows(found.evaluated), found.rows()
    if as_json:
        shown = {"evaluated": evaluated, "predicted": predicted, "epsilon": found.epsilon}
        print(json.dumps(shown, indent=1))
        return
    show_front(evaluated, f"evaluated of {title}: {len(evaluated)} architectures")
    console = Console()
    if not predicted:
        console.print("no predictions: all else within it was evaluated or cannot be converted")
        return
    console.print(predicted_table(predicted, found.metric, f"predicted of {title}", console.width))
    if found.epsilon:
        console.print(f"predictions are the best up to {found.epsilon:.0%} of each cost")
