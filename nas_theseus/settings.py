"""Validated settings of a search and of a conversion recipe; all mistakes are reported together."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nas_theseus.errors import SpaceError
from nas_theseus.values import Constraint, short_hash

Schedule = Literal["progressive", "sequential", "independent", "joint", "naive", "scratch"]
Order = Literal["forward", "reverse"]
SimilarityName = Literal["cka", "cka-unbiased", "dmnn", "regression", "cosine"]
Sampler = Literal["tpe", "nsga2", "nsga3", "random"]

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Recipe(BaseModel):
    """How a candidate is made from the guide and trained: conversion, then the task.

    Attributes:
        schedule: how blocks are aligned; `naive` (no alignment) and `scratch` (no guide at all)
            are controls. Source: Network of Theseus, figures 1 and 2.
        order: input to output, or output to input.
        similarity: what alignment maximises; see `convert.similarity`.
        align_examples: training inputs that alignment sees (bounded: a block needs some thousand).
        align_steps: optimiser steps of one stage.
        align_batch_size: larger batches estimate similarity better (the source used 256).
        align_learning_rate: peak of a stage's cosine schedule (AdamW).
        epochs: passes over the training split in task training; 0 leaves the conversion as it is.
        learning_rate: peak of task training's one-cycle schedule (AdamW).
        distill: weight of the guide's logits in the loss, 0 (labels alone) to 1 (guide alone).
        temperature: softens both sides of distillation.
        recalibrate: batch-norm statistics are taken anew from training data after conversion.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schedule: Schedule = "progressive"
    order: Order = "forward"
    similarity: SimilarityName = "cka"
    align_examples: Positive = 2048
    align_steps: Annotated[int, Field(ge=0)] = 40
    align_batch_size: Annotated[int, Field(ge=4)] = 256
    align_learning_rate: PositiveFloat = 3e-3
    recalibrate: bool = True
    epochs: Annotated[int, Field(ge=0)] = 2
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: PositiveFloat = 6e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    distill: Annotated[float, Field(ge=0, le=1)] = 0.5
    temperature: PositiveFloat = 2.0
    gradient_clip: PositiveFloat = 1.0

    @property
    def id(self) -> str:
        """Eight hexadecimal digits, the same for the same recipe."""
        return short_hash(self.model_dump(), 8)


class SearchSettings(BaseModel):
    """What one launch of a search may use; the space says what is searched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    trials: Positive = 20
    parallel: Positive | None = None
    time_budget_s: PositiveFloat | None = None
    storage: Path = Path("theseus")
    study_url: str | None = None
    sampler: Sampler = "tpe"
    seed: Annotated[int, Field(ge=0)] = 0
    address: str | None = None
    cpus_per_trial: PositiveFloat = 1.0
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0.0
    max_failures: Annotated[int, Field(ge=0)] = 2

    @field_validator("name")
    @classmethod
    def _stays_in_its_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise ValueError(
                f"{name!r} cannot be a search's name: use up to 100 letters, digits, '.', '_' and "
                "'-', beginning with a letter or digit"
            )
        return name

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        return "cuda" if self.gpus_per_trial > 0 else "cpu"


Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Settings from plain values.

    Raises:
        SpaceError: all mistakes together, each with the setting's name and what was given.
    """
    try:
        return model(**values)
    except ValidationError as error:
        raise SpaceError(where, mistakes_of(error)) from error


def mistakes_of(error: ValidationError) -> list[str]:
    """A pydantic error as one line a mistake."""
    lines = []
    for item in error.errors():
        setting = ".".join(map(str, item["loc"]))
        message = item["msg"].removeprefix("Value error, ")
        given = "" if item["type"] in ("missing", "value_error") else f", got {item['input']!r}"
        lines.append(f"{setting}: {message}{given}")
    return lines


_CONDITION = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(<=|>=|==|<|>)\s*([-+0-9.eE_]+)\s*")


def parse_constraint(text: str) -> Constraint:
    """A hard limit such as ``macs <= 2e6``.

    Raises:
        ValueError: not of the form ``name <= number`` or ``name >= number``.
    """
    match = _CONDITION.fullmatch(text)
    if match is None or match[2] not in ("<=", ">="):
        raise ValueError(
            f"constraint {text!r} must read 'name <= number' or 'name >= number', "
            "such as 'macs <= 2e6'"
        )
    name, symbol, number = match.groups()
    return Constraint(name, "<=" if symbol == "<=" else ">=", _number(number, text))


def matches(values: Mapping[str, Any], expression: str) -> bool:
    """Whether values satisfy ``name OP number`` conditions joined by ``and``.

    Raises:
        ValueError: a condition cannot be read, or names something that the values lack.
    """
    compare = {
        "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq,
    }  # fmt: skip
    verdict = True
    for condition in re.split(r"\s+and\s+", expression.strip()):
        match = _CONDITION.fullmatch(condition)
        if match is None:
            raise ValueError(
                f"condition {condition!r} must read 'name OP number' with <=, >=, <, > or ==, "
                "joined by 'and': 'macs < 2e6 and val_accuracy > 0.9'"
            )
        name, symbol, number = match.groups()
        if name not in values:
            raise ValueError(f"unknown name {name!r} in {expression!r}; known: {', '.join(values)}")
        verdict &= compare[symbol](float(values[name]), _number(number, condition))
    return verdict


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{text!r} in {whole!r} is not a number") from error
