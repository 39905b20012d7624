"""Evaluate the front of a search with more seeds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nas_theseus.api.launch import Launch
from nas_theseus.api.search import alone, refuse_unknown_names, settings_of
from nas_theseus.errors import SpaceError, StorageError
from nas_theseus.searches.beginning import Beginning, read_space
from nas_theseus.searches.execution import Executor
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_drawing import draw_front
from nas_theseus.searches.front_files import read_front
from nas_theseus.searches.repeats import (
    RepeatedFront,
    RepeatJobs,
    quality_of,
    read_repeats,
    repeats_of,
)
from nas_theseus.searches.report_page import try_report
from nas_theseus.searches.status import Reporter
from nas_theseus.searches.worker import MakeWorker
from nas_theseus.space.consent import runnable
from nas_theseus.space.sources import read_sources
from nas_theseus.values.registers import EXECUTORS

LEAST = 2


def repeat_front(
    folder: SearchFolder,
    count: int,
    reporter: Reporter,
    *,
    only: Collection[str] | None = None,
    options: Mapping[str, Any] | None = None,
    trust_code: bool = False,
) -> RepeatedFront:
    """Evaluate members of a front with more seeds; finished repeats are not run again.

    The seeds follow the search's own. Blocks come from the search's library as they are, so that
    the spread is that of everything after: fine-tuning, and alignment where there is no library.
    Costs do not change. The pictures of the front and the report are made again, with error bars.

    Args:
        count: number of seeds for each member, at least 2.
        only: ids of the architectures to repeat. Default: the whole front.
        options: where the repeats run, as options of ``nas-theseus search``: ``executor``,
            ``parallel``, ``library``, …
        trust_code: consent to run the search's copy of its space file; not needed if all repeats
            are there.

    Raises:
        SpaceError: fewer than 2 seeds; or the space file, guide, data or recipe have changed.
        StorageError: no such search, it has no front, it is running, or there is no consent.
        ServiceError, GuideError, LibraryError: the executor, guide or library cannot be used.
    """
    if count < LEAST:
        raise SpaceError(
            "--repeats", [f"{count} seeds have no spread; give at least {LEAST}, better 5"]
        )
    begun = Beginning.read(folder)
    front = read_front(folder)
    members = [m for m in front if only is None or m.evaluation.architecture.id in only]
    if not members:
        raise StorageError(
            f"search {folder.name!r} has no network on its front"
            f"{' that meets the conditions' if front else ' yet'}, so there is nothing to repeat; "
            f"{'relax --where' if front else 'continue it with nas-theseus search'}"
        )
    seeds = range(begun.seed + 1, begun.seed + 1 + count)
    missing = [
        job
        for job in repeats_of(members, seeds)
        if folder.read_outcome(job.outcome_name(begun.recipe)) is None
    ]
    if missing:
        metric = quality_of(begun, members)
        jobs = RepeatJobs(missing, folder, begun.recipe, metric, reporter)
        _run(folder, jobs, reporter, options or {}, trust_code)
        draw_front(folder, front)
        try_report(folder, reporter.say)
    return read_repeats(folder, members, seeds)


def _run(
    folder: SearchFolder,
    jobs: RepeatJobs,
    reporter: Reporter,
    options: Mapping[str, Any],
    trust_code: bool,
) -> None:
    """Run repeats in the search's executor; nothing else runs in its folder meanwhile."""
    sources = runnable(read_sources(folder.folder), folder.folder, trust_code=trust_code)
    given = {"name": folder.name, "storage": folder.root, **options}
    settings = settings_of(Path(sources.path), given, "front")
    space = read_space(folder, trust_code=trust_code)
    refuse_unknown_names(settings)
    executor: Executor = EXECUTORS[settings.execution.executor](settings.execution, folder.log)
    executor.check()
    with alone(folder):
        launch = Launch(space, sources, folder, settings, reporter)
        library = launch.open_library()
        executor.open()
        try:
            executor.run(jobs, MakeWorker(launch.worker_settings(library)))
        finally:
            executor.close()
