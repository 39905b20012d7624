"""Validated settings of a search and of a conversion recipe; all mistakes are reported together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from nas_theseus.values.ids import SEARCH_NAME
from nas_theseus.values.validation import Positive, PositiveFloat, Settings

Sampler = Literal["theseus", "tpe", "gp", "nsga2", "nsga3", "random"]


class SearchSettings(Settings):
    """What one launch of a search may use; the space says what is searched.

    Attributes:
        parallel: trials at once; None, given as "auto", for what the machine or cluster has room
            for when the search starts.
        accelerator_type: trials run on GPUs of this type alone, by Ray's name for it.
        library: where converted blocks are kept: a folder or an fsspec address; True for
            ``library`` in `storage`, False for none, every candidate converted by itself.
        rungs: candidates that fall behind are stopped before their end (`rungs.RungRecord`), where
            the recipe trains for at least two epochs. A search goes on as it began.
        suggestions: how many architectures a new search begins with whose blocks, stitched into
            the guide, match its boundaries best (`stitch.suggestions`).
    """

    name: str
    trials: Positive = 20
    parallel: Positive | None = None
    time_budget_s: PositiveFloat | None = None
    storage: Path = Path("theseus")
    study_url: str | None = None
    library: bool | Annotated[str, Field(min_length=1)] = True
    rungs: bool = True
    suggestions: Annotated[int, Field(ge=0)] = 0
    sampler: Sampler = "theseus"
    seed: Annotated[int, Field(ge=0)] = 0
    address: str | None = None
    cpus_per_trial: PositiveFloat = 1.0
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0.0
    accelerator_type: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None
    max_failures: Annotated[int, Field(ge=0)] = 2

    @field_validator("parallel", mode="before")
    @classmethod
    def _auto(cls, parallel: object) -> object:
        return None if parallel == "auto" else parallel

    @field_validator("accelerator_type")
    @classmethod
    def _has_gpus(cls, kind: str | None, given: ValidationInfo) -> str | None:
        if kind is not None and not given.data.get("gpus_per_trial"):
            raise ValueError(
                f"{kind!r} is given without GPUs; say how many one trial has (--gpus-per-trial)"
            )
        return kind

    @field_validator("name")
    @classmethod
    def _stays_in_its_folder(cls, name: str) -> str:
        if not SEARCH_NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot be a search's name: use up to 100 letters, digits, '.', '_' and "
                "'-', beginning with a letter or digit"
            )
        return name

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        return "cuda" if self.gpus_per_trial > 0 else "cpu"
