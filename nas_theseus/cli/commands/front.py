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
    LabelsOption,
    LibraryOption,
    ParallelOption,
    RuntimeEnvOption,
    StorageOption,
    StudyOption,
    TrustOption,
)

if TYPE_CHECKING:
    from nas_theseus.searches.budget import Answer
    from nas_theseus.searches.folder import SearchFolder


WhereOption = Annotated[
    str | None,
    typer.Option(help="Conditions on members, such as 'macs < 2e6 and val_accuracy > 0.9'."),
]
AtOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="BUDGET",
        help="Another budget on any costs, such as 'macs <= 5e6 and weight_bytes <= 1e5': "
        "architectures within it, "
        "evaluated ones and ones predicted to be better. Nothing is trained.",
    ),
]
RefineOption = Annotated[
    bool, typer.Option("--refine", help="With --at: evaluate the best prediction, too.")
]
RepeatsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Evaluate each member with N more seeds, and say which differences are real. "
        "Repeats that are there are not run again.",
    ),
]
CountOption = Annotated[int, typer.Option(min=1, help="With --at: number of predictions.")]
DistanceOption = Annotated[
    int, typer.Option(min=1, help="With --at: guide parts in which they differ at least.")
]


def command(
    name: Annotated[str, typer.Argument(help="Name of the search.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    where: WhereOption = None,
    at: AtOption = None,
    refine: RefineOption = False,
    count: CountOption = 5,
    distance: DistanceOption = 2,
    repeats: RepeatsOption = None,
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
    label_selector: LabelsOption = None,
    runtime_env: RuntimeEnvOption = None,
) -> None:
    """Show the front of a search, finished or running: what no other evaluation dominates.

    With --at it answers another budget without any training. --refine adds one trial to the
    search; run again, it evaluates the next best prediction. --repeats trains the members again.
    """
    from nas_theseus.errors import SpaceError
    from nas_theseus.searches.folder import SearchFolder

    folder = SearchFolder(storage, name)
    launch = {
        "study_url": study,
        "library": library,
        "parallel": parallel,
        "executor": executor,
        "address": address,
        "cpus_per_trial": cpus_per_trial,
        "gpus_per_trial": gpus_per_trial,
        "accelerator_type": accelerator_type,
        "label_selector": label_selector,
        "runtime_env": runtime_env,
    }
    if repeats is not None:
        if at is not None or refine:
            raise SpaceError("front", ["--repeats excludes --at and --refine"])
        _repeat(folder, repeats, where, as_json, launch, trust_code)
        return
    if at is None:
        if refine or trust_code:
            raise SpaceError("front", ["--refine and --trust-code need --at BUDGET"])
        _show_members(folder, where, as_json)
        return
    if where or (refine and as_json):
        raise SpaceError("front", ["--at excludes --where, and --refine excludes --json"])
    found = _answer(folder, at, (count, distance), library, trust_code)
    _show_answer(found, f"{name} with {' and '.join(at)}", as_json)
    if refine and found.predicted:
        _refine(folder, found, at, launch, trust_code)


def _show_members(folder: SearchFolder, where: str | None, as_json: bool) -> None:
    """The front, or those of its members that meet conditions."""
    from nas_theseus.api.choosing import matching
    from nas_theseus.cli.show import show_front
    from nas_theseus.searches.figures import left_out
    from nas_theseus.searches.front_files import count_at_chance, front_rows, read_front

    rows = front_rows(read_front(folder))
    title = f"front of {folder.name}: {len(rows)} architectures"
    if where:
        rows = matching(rows, where)
        title += f", {len(rows)} of them with {where}"
    show_front(rows, title, as_json=as_json)
    if not as_json and (count := count_at_chance(folder)):
        Console().print(left_out(count), highlight=False)


def _repeat(
    folder: SearchFolder,
    count: int,
    where: str | None,
    as_json: bool,
    launch: dict[str, Any],
    trust_code: bool,
) -> None:
    """Evaluate members with more seeds, and show how far their quality spreads."""
    from nas_theseus.api.choosing import matching
    from nas_theseus.api.repeating import repeat_front
    from nas_theseus.cli.tables import difference_lines, front_table, repeated_rows
    from nas_theseus.searches.front_files import front_rows, read_front
    from nas_theseus.searches.report import LiveReport

    only = None
    if where:
        only = {row["architecture"] for row in matching(front_rows(read_front(folder)), where)}
    report = LiveReport(Console(stderr=as_json))
    try:
        found = repeat_front(
            folder, count, report, only=only, options=launch, trust_code=trust_code
        )
    except KeyboardInterrupt:
        message = "interrupted; the same command continues from here"
        Console(stderr=True).print(message, highlight=False)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
        return
    console = Console()
    title = f"front of {folder.name}, each network with {count} other seeds"
    console.print(front_table(repeated_rows(found), title, console.width))
    for line in difference_lines(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _answer(
    folder: SearchFolder,
    at: list[str],
    predictions: tuple[int, int],
    library: str | None,
    trust_code: bool,
) -> Answer:
    """What the search offers within a budget.

    Args:
        predictions: how many, and in how many guide parts they differ at least.
    """
    from nas_theseus.searches.budget import answer, parse_budget

    budget = parse_budget(" and ".join(at))
    count, distance = predictions
    return answer(folder, budget, count, distance=distance, library=library, trust_code=trust_code)


def _refine(
    folder: SearchFolder, found: Answer, at: list[str], launch: dict[str, Any], trust_code: bool
) -> None:
    """Evaluate the best prediction as one more trial of the search."""
    from nas_theseus.api.search import settings_of
    from nas_theseus.cli.show import show_front, show_search
    from nas_theseus.searches.budget import parse_budget
    from nas_theseus.searches.front_files import front_rows, read_front
    from nas_theseus.space.consent import runnable
    from nas_theseus.space.sources import read_sources

    sources = runnable(read_sources(folder.folder), folder.folder, trust_code=trust_code)
    options = {"name": folder.name, "storage": folder.root, **launch}
    settings = settings_of(Path(sources.path), options, "front")
    show_search(sources, settings, [found.predicted[0].architecture])
    budget = parse_budget(" and ".join(at))
    rows = front_rows(read_front(folder, budget))
    title = f"evaluated of {folder.name} with {' and '.join(at)}: {len(rows)} architectures"
    show_front(rows, title)


def _show_answer(found: Answer, title: str, as_json: bool) -> None:
    from nas_theseus.cli.show import show_front
    from nas_theseus.cli.tables import predicted_table
    from nas_theseus.searches.front_files import front_rows

    evaluated, predicted = front_rows(found.evaluated), found.rows()
    if as_json:
        shown = {
            "evaluated": evaluated,
            "predicted": predicted,
            "epsilon": found.epsilon,
            "prior": found.prior,
            "not_predicted": list(found.not_predicted),
        }
        print(json.dumps(shown, indent=1))
        return
    show_front(evaluated, f"evaluated of {title}: {len(evaluated)} architectures")
    console = Console()
    if not predicted:
        console.print("no predictions: all else within it was evaluated or cannot be converted")
        return
    console.print(predicted_table(found, f"predicted of {title}", console.width))
    if found.prior is not None:
        console.print(
            f"this is a prior: the search has no finished evaluation, so these are the least sums "
            f"of the blocks' {found.prior.replace('_', ' ')}, and their {found.metric} is unknown"
        )
    if found.not_predicted:
        console.print(
            f"{', '.join(found.not_predicted)}: measured on finished networks, so predictions are "
            "not held to it; --refine evaluates one"
        )
    if found.epsilon:
        console.print(f"predictions are the best up to {found.epsilon:.0%} of each cost")
