"""Resources of one trial: cores, GPUs and their type."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from nas_theseus.values.validation import PositiveFloat, Settings


class Resources(Settings):
    """Resources of one trial.

    Attributes:
        cpus: number of CPU cores.
        gpus: number of GPUs; 0.5 puts two trials on one GPU.
        accelerator_type: the only type of GPU to use, by Ray's name for it. Default: any.
    """

    cpus: PositiveFloat = 1.0
    gpus: Annotated[float, Field(ge=0)] = 0.0
    accelerator_type: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None

    @field_validator("accelerator_type")
    @classmethod
    def _has_gpus(cls, kind: str | None, given: ValidationInfo) -> str | None:
        if kind is not None and not given.data.get("gpus"):
            raise ValueError(f"{kind!r} needs GPUs; set how many one trial has (--gpus-per-trial)")
        return kind

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Device on which a trial trains."""
        return "cuda" if self.gpus > 0 else "cpu"

    @property
    def threads(self) -> int:
        """Number of torch threads of a trial."""
        return max(1, int(self.cpus))
