"""Validated settings of one launch of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from nas_theseus.values.ids import SEARCH_NAME
from nas_theseus.values.resources import Resources
from nas_theseus.values.validation import Positive, PositiveFloat, Settings


class ExecutorSettings(Settings):
    """Where the jobs of a search run, and how many at once.

    Attributes:
        executor: a name of `values.registers.EXECUTORS`.
        address: Ray cluster to join; None starts Ray on this machine.
        parallel: trials at once; None ("auto"): as many as the machine or cluster has room for.
        resources: of one trial.
        max_failures: a job whose worker dies is run again so many times.
    """

    executor: str = "ray"
    address: str | None = None
    parallel: Positive | None = None
    resources: Resources = Resources()
    max_failures: Annotated[int, Field(ge=0)] = 2

    @field_validator("parallel", mode="before")
    @classmethod
    def _auto(cls, parallel: object) -> object:
        return None if parallel == "auto" else parallel


class SearchSettings(Settings):
    """What one launch of a search may use; the space says what is searched.

    Attributes:
        name: of the search, and of its folder.
        trials: architectures to evaluate in all.
        time_budget_s: seconds after which no new trial starts.
        storage: folder of guides, library and searches.
        study_url: Optuna storage; None for a journal file in the search's folder.
        library: where converted blocks are stored: a folder or an fsspec address; True for
            ``library`` in `storage`, False for none, every candidate converted by itself.
        rungs: candidates that fall behind are stopped early, where the recipe trains for at least
            two epochs (`estimate.rungs.RungRecord`).
        suggestions: how many architectures a new search begins with whose blocks, stitched into
            the guide, match its boundaries best (`stitch.suggestions`).
        sampler: a name of `values.registers.SAMPLERS`.
        seed: of proposals and trials.
        trackers: names of `values.registers.TRACKERS`.
        execution: where trials run.
    """

    name: str
    trials: Positive = 20
    time_budget_s: PositiveFloat | None = None
    storage: Path = Path("theseus")
    study_url: str | None = None
    library: bool | Annotated[str, Field(min_length=1)] = True
    rungs: bool = True
    suggestions: Annotated[int, Field(ge=0)] = 0
    sampler: str = "theseus"
    seed: Annotated[int, Field(ge=0)] = 0
    trackers: tuple[str, ...] = ("mlflow",)
    execution: ExecutorSettings = ExecutorSettings()

    @field_validator("name")
    @classmethod
    def _stays_in_its_folder(cls, name: str) -> str:
        if not SEARCH_NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot be a search's name: use up to 100 letters, digits, '.', '_' and "
                "'-', beginning with a letter or digit"
            )
        return name
