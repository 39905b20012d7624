"""Searches without a guide's training, for benchmarks of what is around the trials."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nas_theseus.api.launch import open_driver
from nas_theseus.costs.table import CostTable
from nas_theseus.library.store import Library
from nas_theseus.searches.driver import Driver
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.opening import Measured, plan_of
from nas_theseus.searches.trackers import Tracker, Trackers
from nas_theseus.services.optuna.study import StudySettings
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.settings import SearchSettings


class Quiet:
    """A reporter that shows nothing."""

    def say(self, message: str) -> None:
        """Nothing."""

    def show(self, status: object) -> None:
        """Nothing."""


def bare_driver(
    space: SearchSpace,
    quality: float,
    settings: SearchSettings,
    trackers: Mapping[str, Tracker],
    library: Library | None = None,
    slots: int = 1,
) -> Driver:
    """The driver of a search whose guide has a known quality.

    Args:
        settings: name, trials, storage, sampler, seed and rungs of the search.
        trackers: begun already.
    """
    folder = SearchFolder(Path(settings.storage).resolve(), settings.name)
    folder.create()
    costs = CostTable(space)
    measured = Measured(space, costs, {space.metric: quality, **costs.of_parts().known()})
    place = settings.study_url or folder.journal
    study = StudySettings(settings.name, place, settings.sampler, settings.seed)
    several = Trackers(trackers, {}, folder.read_outcome, Quiet().say)
    plan = plan_of(space, settings, slots)
    return open_driver(measured, plan, folder, study, (several, Quiet()), library)
