"""Resources of one trial: cores, GPUs and their type, and labels of its node."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from nas_theseus.values.validation import PositiveFloat, Settings

# Ray's labels have the syntax of those of Kubernetes, with an optional prefix.
_PIECE = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"(?:[A-Za-z0-9.-]{{1,253}}/)?{_PIECE}")
_WANTED = re.compile(rf"!?(?:{_PIECE}|in\({_PIECE}(?:, ?{_PIECE})*\))")


class Resources(Settings):
    """Resources of one trial.

    Attributes:
        cpus: number of CPU cores.
        gpus: number of GPUs; 0.5 puts two trials on one GPU.
        accelerator_type: the only type of GPU to use, by Ray's name for it. Default: any.
        label_selector: what the labels of a trial's node must be, by Ray's rules: ``spot``,
            ``!spot``, ``in(a, b)`` or ``!in(a, b)`` by the label's key. Default: any.
    """

    cpus: PositiveFloat = 1.0
    gpus: Annotated[float, Field(ge=0)] = 0.0
    accelerator_type: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None

    label_selector: dict[str, str] = Field(default_factory=dict)

    @field_validator("label_selector", mode="before")
    @classmethod
    def _pairs(cls, given: Any) -> Any:
        """Texts KEY=VALUE, as the command line gives them, as a mapping."""
        if given is None or isinstance(given, Mapping):
            return given or {}
        if isinstance(given, str):
            given = [given]
        found: dict[str, str] = {}
        for text in given:
            key, equals, value = str(text).partition("=")
            if not equals:
                raise ValueError(f"{text!r} must read KEY=VALUE, such as ray.io/market-type=spot")
            if key in found:
                raise ValueError(f"{key} is given twice; use {key}=in(A, B) for several values")
            found[key.strip()] = value.strip()
        return found

    @field_validator("label_selector")
    @classmethod
    def _readable(cls, given: dict[str, str]) -> dict[str, str]:
        for key, value in given.items():
            if not _KEY.fullmatch(key):
                raise ValueError(
                    f"{key!r} cannot be a label's key: use letters, digits, '-', '_' and '.', "
                    "with an optional prefix such as ray.io/"
                )
            if not _WANTED.fullmatch(value):
                raise ValueError(
                    f"{value!r} for {key} must be a value, !value, in(a, b) or !in(a, b)"
                )
        return given

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
