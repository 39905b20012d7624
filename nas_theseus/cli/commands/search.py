"""``nas-theseus search``: run a search, or continue one."""

from __future__ import annotations

from typing import Annotated

import typer

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
    SpaceFile,
    StorageOption,
    StudyOption,
)
from nas_theseus.values.registers import SAMPLERS, TRACKERS

NameOption = Annotated[
    str | None,
    typer.Option(help="Name of the search; an existing one continues. Default: the file's."),
]
TimeOption = Annotated[float | None, typer.Option(help="Seconds after which no new trial starts.")]
SamplerOption = Annotated[
    str | None, typer.Option(help=f"Who proposes: {SAMPLERS.one_of}. Default: theseus.")
]
SuggestionsOption = Annotated[
    int | None,
    typer.Option(help="Begin with so many architectures whose blocks, stitched in, fit best."),
]
NoLibraryOption = Annotated[
    bool, typer.Option("--no-library", help="Convert every candidate by itself.")
]
AllBlocksOption = Annotated[
    bool,
    typer.Option(
        "--all-blocks",
        help="Convert and score all blocks before the first trial, so that front --at is exact.",
    ),
]
NoRungsOption = Annotated[
    bool, typer.Option("--no-rungs", help="Train every candidate to the end.")
]
TrackerOption = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Where results are recorded: {TRACKERS.one_of}; may be repeated. Default: mlflow."
    ),
]

LogModelsOption = Annotated[
    bool,
    typer.Option("--log-models", help="At the end log the front's networks as MLflow models."),
]


def command(
    space: SpaceFile,
    name: NameOption = None,
    trials: Annotated[int, typer.Option(help="Architectures to evaluate in all.")] = 20,
    parallel: ParallelOption = "auto",
    time_budget: TimeOption = None,
    storage: StorageOption = DEFAULT_STORAGE,
    study: StudyOption = None,
    sampler: SamplerOption = None,
    seed: Annotated[int | None, typer.Option(help="Seed of proposals and trials.")] = None,
    suggestions: SuggestionsOption = None,
    library: LibraryOption = None,
    no_library: NoLibraryOption = False,
    all_blocks: AllBlocksOption = False,
    no_rungs: NoRungsOption = False,
    tracker: TrackerOption = None,
    executor: ExecutorOption = "ray",
    address: AddressOption = None,
    cpus_per_trial: CpusOption = 1.0,
    gpus_per_trial: GpusOption = 0.0,
    accelerator_type: AcceleratorOption = None,
    label_selector: LabelsOption = None,
    runtime_env: RuntimeEnvOption = None,
    log_models: LogModelsOption = False,
) -> None:
    """Run a search, or continue the one of this name: finished trials are kept.

    It begins with an estimate of how long it will take. Stop it at any moment with Ctrl-C or
    kill; the same command continues it.
    """
    from nas_theseus.api.search import settings_of
    from nas_theseus.cli.show import show_models, show_search
    from nas_theseus.space.consent import remember
    from nas_theseus.space.sources import gather

    options = {
        "name": name,
        "trials": trials,
        "parallel": parallel,
        "time_budget_s": time_budget,
        "storage": storage,
        "study_url": study,
        "sampler": sampler,
        "seed": seed,
        "suggestions": suggestions,
        "library": _library(library, no_library),
        "all_blocks": all_blocks,
        "rungs": False if no_rungs else None,
        "trackers": tracker,
        "executor": executor,
        "address": address,
        "cpus_per_trial": cpus_per_trial,
        "gpus_per_trial": gpus_per_trial,
        "accelerator_type": accelerator_type,
        "label_selector": label_selector,
        "runtime_env": runtime_env,
    }
    settings = settings_of(space, options, "search")
    sources = gather(space)
    remember(sources)
    show_search(sources, settings)
    if log_models:
        show_models(settings)


def _library(library: str | None, no_library: bool) -> str | bool | None:
    """The library as settings hold it.

    Raises:
        SpaceError: both options were given.
    """
    from nas_theseus.errors import SpaceError

    if no_library and library is not None:
        raise SpaceError("search", ["--library and --no-library exclude each other"])
    return False if no_library else library
