"""Validated settings of a search and where it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from nas_theseus.values.ids import SEARCH_NAME
from nas_theseus.values.resources import Resources
from nas_theseus.values.validation import Positive, PositiveFloat, Settings


class ExecutorSettings(Settings):
    """Where the jobs of a search run, and how many at once.

    Attributes:
        executor: a name from `values.registers.EXECUTORS`.
        address: address of a Ray cluster to join. Default: start Ray on this machine.
        parallel: number of trials at once. Default: "auto", as many as the machine or cluster has
            room for.
        resources: resources of one trial.
        max_failures: how many times a job is run again if its worker dies.
        runtime_env: Ray's runtime environment of all workers: its fields, or a YAML or JSON file
            with them. Default: the driver's packages are expected on every node.
        callbacks: of Ray Tune, told of every job as a trial.
    """

    executor: str = "ray"
    address: str | None = None
    parallel: Positive | None = None
    resources: Resources = Resources()
    max_failures: Annotated[int, Field(ge=0)] = 2
    runtime_env: Path | dict[str, Any] | None = None
    callbacks: tuple[Any, ...] = ()

    @field_validator("parallel", mode="before")
    @classmethod
    def _auto(cls, parallel: object) -> object:
        return None if parallel == "auto" else parallel


class SearchSettings(Settings):
    """Settings of one run of a search; the space defines what is searched.

    Attributes:
        name: name of the search and of its folder.
        trials: total number of architectures to evaluate; 0 only with `all_blocks`.
        time_budget_s: seconds after which no new trial starts.
        storage: folder of guides, library and searches.
        study_url: Optuna storage. Default: a journal file in the search's folder.
        library: where converted blocks are stored: a folder or an fsspec address. Default: True,
            ``library`` in `storage`. False: no library, every candidate is converted on its own.
        rungs: whether to stop candidates early that fall behind, if the recipe trains for at least
            two epochs (`estimate.rungs.RungRecord`).
        suggestions: number of first architectures of a new search that are suggested by stitching:
            their blocks match the guide's boundaries best (`stitching.suggestions`).
        all_blocks: whether all blocks of the space are converted and scored before the first trial.
        sampler: a name from `values.registers.SAMPLERS`.
        seed: seed of proposals and trials.
        trackers: names from `values.registers.TRACKERS`.
        execution: where trials run.
    """

    name: str
    trials: Annotated[int, Field(ge=0)] = 20
    time_budget_s: PositiveFloat | None = None
    storage: Path = Path("theseus")
    study_url: str | None = None
    library: bool | Annotated[str, Field(min_length=1)] = True
    rungs: bool = True
    suggestions: Annotated[int, Field(ge=0)] = 0
    all_blocks: bool = False
    sampler: str = "theseus"
    seed: Annotated[int, Field(ge=0)] = 0
    trackers: tuple[str, ...] = ("mlflow",)
    execution: ExecutorSettings = ExecutorSettings()

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.trials and not self.all_blocks:
            raise ValueError(
                "trials=0 evaluates nothing; use at least 1, or all_blocks to convert the blocks"
            )
        if self.all_blocks and self.library is False:
            raise ValueError("all_blocks fills the library, which library=False leaves out")
        return self

    @field_validator("name")
    @classmethod
    def _stays_in_its_folder(cls, name: str) -> str:
        if not SEARCH_NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot be a search's name: use up to 100 letters, digits, '.', '_' and "
                "'-', starting with a letter or digit"
            )
        return name
