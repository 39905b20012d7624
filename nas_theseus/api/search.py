"""Run a search: from a space file and settings to a front."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from nas_theseus.api.launch import Launch
from nas_theseus.api.search_result import SearchResult
from nas_theseus.errors import SpaceError, StorageError
from nas_theseus.searches.beginning import inherit, refuse_changes, refuse_mistakes
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.report import LiveReport
from nas_theseus.searches.status import Reporter
from nas_theseus.space.consent import remember
from nas_theseus.space.left_out import left_out
from nas_theseus.space.load import load_space
from nas_theseus.space.sources import Sources, gather
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.registers import EXECUTORS, SAMPLERS, TRACKERS
from nas_theseus.values.settings import SearchSettings
from nas_theseus.values.validation import validated

# Options of a launch that say where its trials run.
EXECUTION = ("executor", "address", "parallel", "max_failures", "runtime_env", "callbacks")


def search(
    space: str | Path,
    *,
    trials: int = 20,
    reporter: Reporter | None = None,
    first: Sequence[Architecture] = (),
    **options: Any,
) -> SearchResult:
    """Run a search, or resume the one of this name; finished trials are not run again.

    ::

        result = nas_theseus.search("space.py", trials=40, parallel=2)
        result.frame()
        network = result.load(result.front[0]["architecture"])

    Args:
        space: the space file. Its code is run.
        trials: number of architectures to evaluate, those of earlier launches included.
        reporter: shows progress. Default: a panel in a terminal or notebook.
        first: architectures to evaluate next, in a search that was started before. If there are
            any, the search ends when they and the trials still open are done, instead of after
            `trials`.
        options: options of ``nas-theseus search``, with underscores: ``name``, ``storage``,
            ``sampler``, ``seed``, ``executor``, ``parallel``, …. Default: what the search began
            with; in a new search, the default of the command line. Besides, ``callbacks`` is a list
            of `ray.tune.Callback` objects, which are told of every job as a trial; ``runtime_env``
            and ``label_selector`` may be dicts.

    Raises:
        TheseusError: any mistake that a user can correct; before any training where possible.
    """
    path = Path(space)
    settings = settings_of(path, {"trials": trials, **options}, "search")
    sources = gather(path)
    remember(sources)
    if reporter is not None:
        return run_search(sources, settings, reporter, first)
    report = LiveReport(Console())
    status = None
    try:
        result = run_search(sources, settings, report, first)
        status = result.status
    finally:
        report.close(status)
    return result


def settings_of(space_file: Path, options: Mapping[str, Any], where: str) -> SearchSettings:
    """Make the settings of a launch from flat options and from what its search began with.

    Args:
        options: as the command line names them, with underscores; None where not given.
        where: name of the command in messages.

    Raises:
        SpaceError: all mistakes together.
        StorageError: the search's name is not allowed, or its saved settings are damaged.
    """
    given = {name: value for name, value in options.items() if value is not None}
    given.setdefault("name", space_file.stem)
    given.setdefault("storage", Path("theseus"))
    resources = {
        name: given.pop(option)
        for option, name in (
            ("cpus_per_trial", "cpus"),
            ("gpus_per_trial", "gpus"),
            ("accelerator_type", "accelerator_type"),
            ("label_selector", "label_selector"),
        )
        if option in given
    }
    execution = {name: given.pop(name) for name in EXECUTION if name in given}
    complete = inherit(SearchFolder(Path(given["storage"]), str(given["name"])), given)
    complete["execution"] = {**execution, "resources": resources}
    return validated(SearchSettings, complete, where)


def run_search(
    sources: Sources,
    settings: SearchSettings,
    reporter: Reporter,
    first: Sequence[Architecture] = (),
) -> SearchResult:
    """Run a search, or resume the one of this name, until its trials are done.

    Args:
        sources: the space file and the modules beside it, as `gather` reads them.
        first: as `search`.

    Raises:
        TheseusError: any mistake that a user can correct; before any training where possible.
    """
    folder = SearchFolder(settings.storage, settings.name)
    refuse_changes(folder, settings, sources)
    space = load_space(sources, portable=True)
    refuse_mistakes(space, sources.path)
    refuse_unknown_names(settings)
    for line in left_out(space):
        reporter.say(line)
    # Ablations without alignment are the same with and without a library.
    with_library = settings.library is not False and not space.recipe.is_control
    space = replace(space, recipe=space.recipe.model_copy(update={"library": with_library}))
    folder.create()
    with alone(folder):
        return Launch(space, sources, folder, settings, reporter).run(first)


@contextmanager
def alone(folder: SearchFolder) -> Iterator[None]:
    """Holds a search's folder, so that no other process runs its trials meanwhile.

    Raises:
        StorageError: another process does.
    """
    try:
        held = FileLock(folder.lock_file).acquire(timeout=0)
    except Timeout as error:
        raise StorageError(
            f"search {folder.name!r} in {folder.root} is already running in another "
            "process; wait for it, or give this one another --name"
        ) from error
    with held:
        folder.remove_leftovers()
        yield
        folder.remove_leftovers()  # of workers that were killed meanwhile


def refuse_unknown_names(settings: SearchSettings) -> None:
    """Refuse unregistered names; called after the space file has run, as it may register some.

    Raises:
        SpaceError: lists all unknown names.
    """
    asked = [
        (SAMPLERS, settings.sampler),
        (EXECUTORS, settings.execution.executor),
        *((TRACKERS, name) for name in settings.trackers),
    ]
    mistakes = [
        f"--{register.kind} {name}: unknown {register.kind} {name!r}; use {register.one_of}"
        for register, name in asked
        if name not in register
    ]
    if mistakes:
        raise SpaceError("search", mistakes)
