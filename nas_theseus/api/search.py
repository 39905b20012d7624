"""Run a search: from a space file and settings to a front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from nas_theseus.space.load import load_space
from nas_theseus.space.sources import Sources, gather
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.registers import EXECUTORS, SAMPLERS, TRACKERS
from nas_theseus.values.settings import SearchSettings
from nas_theseus.values.validation import validated


def search(
    space: str | Path,
    *,
    trials: int = 20,
    reporter: Reporter | None = None,
    first: Sequence[Architecture] = (),
    **options: Any,
) -> SearchResult:
    """Run a search, or continue the one of this name: finished trials are kept.

    ::

        result = nas_theseus.search("space.py", trials=40, parallel=2)
        result.frame()
        network = result.load(result.front[0]["architecture"])

    Args:
        space: the space file. Its code is run.
        trials: architectures to evaluate in all.
        reporter: shows progress. Default: a panel in a terminal or notebook.
        first: architectures to propose next, of a search that has begun. With any, the search ends
            when they and what was open before are done, instead of after `trials`.
        options: those of ``nas-theseus search`` with underscores: ``name``, ``storage``,
            ``sampler``, ``seed``, ``executor``, ``parallel``, …; what is left out has the default
            of the command line, or is what the search began with.

    Raises:
        TheseusError: anything a user can mend, before any training where it can be seen there.
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
    """Settings of a launch from flat options, completed from the beginning of its search.

    Args:
        options: as the command line names them, with underscores; None where not given.
        where: what messages call them.

    Raises:
        SpaceError: all mistakes together.
        StorageError: the name is not one that a search may have, or its settings are damaged.
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
        )
        if option in given
    }
    execution = {
        name: given.pop(name)
        for name in ("executor", "address", "parallel", "max_failures")
        if name in given
    }
    complete = inherit(SearchFolder(Path(given["storage"]), str(given["name"])), given)
    complete["execution"] = {**execution, "resources": resources}
    return validated(SearchSettings, complete, where)


def run_search(
    sources: Sources,
    settings: SearchSettings,
    reporter: Reporter,
    first: Sequence[Architecture] = (),
) -> SearchResult:
    """Run a search, or continue the one of this name, until its trials are done.

    Args:
        sources: of the space, as `gather` reads them.
        first: architectures to propose next, of a search that has begun. With any, the search ends
            when they and what was open before are done, instead of after `settings.trials`.

    Raises:
        TheseusError: anything a user can mend, before any training where it can be seen there.
    """
    folder = SearchFolder(settings.storage, settings.name)
    refuse_changes(folder, settings, sources)
    space = load_space(sources, portable=True)
    refuse_mistakes(space, sources.path)
    refuse_unknown_names(settings)
    # Controls align nothing, so they are the same with a library and without.
    with_library = settings.library is not False and not space.recipe.is_control
    recipe = space.recipe.model_copy(update={"library": with_library})
    space = replace(space, recipe=recipe)
    folder.create()
    lock = FileLock(folder.lock_file)
    try:
        held = lock.acquire(timeout=0)
    except Timeout as error:
        raise StorageError(
            f"search {settings.name!r} in {settings.storage} is already running in another "
            "process; wait for it, or give this one another --name"
        ) from error
    with held:
        launch = Launch(space, sources, folder, settings, reporter)
        return launch.run(first)


def refuse_unknown_names(settings: SearchSettings) -> None:
    """Refuse names that no register has; asked when the space file has added its own.

    Raises:
        SpaceError: all of them together.
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
