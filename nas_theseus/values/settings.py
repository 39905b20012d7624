"""Validated settings of a search and of a conversion recipe; all mistakes are reported together."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from nas_theseus.errors import SpaceError
from nas_theseus.values.goals import Constraint
from nas_theseus.values.ids import SEARCH_NAME, short_hash

Schedule = Literal["progressive", "sequential", "independent", "joint", "naive", "scratch", "kd"]
Order = Literal["forward", "reverse"]
SimilarityName = Literal["cka", "cka-unbiased", "dmnn", "regression", "cosine"]
Sampler = Literal["theseus", "tpe", "gp", "nsga2", "nsga3", "random"]

# What the conversion of one block depends on: not how blocks are put together, nor task training.
ALIGNMENT = {
    "similarity", "similarity_options", "align_examples", "align_steps", "plateau",
    "align_batch_size", "align_learning_rate", "weight_decay", "gradient_clip",
}  # fmt: skip
TRAINING = {"epochs", "batch_size", "learning_rate", "weight_decay", "gradient_clip"}

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Epochs = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SimilarityOptions(BaseModel):
    """What a similarity compares; None leaves what suits it best (`convert.similarity`).

    Attributes:
        examples: what an example is on maps and tokens: the whole, or each position.
        pool: average feature maps down to pool x pool before CKA or D-MNN; 0 for no pooling.
        project: fixed random projection to this width before CKA or D-MNN; 0 for none.
        rows: at most so many positions are compared.
        temperature: of D-MNN's softmax.
        k: neighbours of D-MNN.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    examples: Literal["maps", "positions"] | None = None
    pool: Annotated[int, Field(ge=0)] | None = None
    project: Annotated[int, Field(ge=0)] | None = None
    rows: Positive | None = None
    temperature: PositiveFloat | None = None
    k: Positive | None = None

    @property
    def given(self) -> dict[str, object]:
        """The options that were set, as `convert.similarity` takes them; 0 means none of it."""
        chosen = self.model_dump(exclude_none=True)
        return {name: None if value == 0 else value for name, value in chosen.items()}


class Recipe(BaseModel):
    """How a candidate is made from the guide and trained: conversion, then the task.

    Attributes:
        schedule: how blocks are aligned. Controls: `naive` (put in without alignment), `scratch`
            (nothing of the guide) and `kd` (scratch, taught by the guide's logits). Source:
            Network of Theseus, figures 1 and 2.
        order: input to output, or output to input.
        similarity: what alignment maximises; see `convert.similarity`.
        similarity_options: what it compares.
        align_examples: training inputs that alignment sees (bounded: a block needs some thousand).
        align_steps: optimiser steps of one stage, at most.
        plateau: a stage ends early when its loss, averaged over one pass through its sample, is
            not this share below that of the pass before; 0 always takes `align_steps`.
        align_batch_size: `cka` and `dmnn` compare examples with each other and want larger ones
            (the source used 256).
        align_learning_rate: peak of a stage's cosine schedule (AdamW); a quarter, then a sixteenth
            of it where a stage comes out worse than it began.
        library: new blocks begin as the library's converted ones, each made alone; the schedule
            then only polishes them. Searches set this themselves (`--no-library`); controls never
            take blocks from the library.
        polish_steps: takes the place of `align_steps` where blocks come from the library; 0
            leaves them as they are.
        hybrid_epochs: passes over the training split in which the replaced blocks are trained on
            the task after every stage, the guide's parts around them frozen (Network of Theseus,
            figure 4); 0 for none (figure 1).
        settle_epochs: passes over the training split in which the assembled network is trained as
            a whole, in small batches, before it is first measured: so many small steps tell far
            better what it will become than the conversion alone; 0 for none. Task training
            follows with its own schedule.
        settle_batch_size, settle_learning_rate: of these steps.
        epochs: passes over the training split in task training, fractions allowed; 0 leaves the
            conversion as it is.
        learning_rate: peak of task training's one-cycle schedule (AdamW).
        distill: weight of the guide's logits in the loss, 0 (labels alone) to 1 (guide alone).
        temperature: softens both sides of distillation.
        recalibrate: batch-norm statistics are taken anew from training data after conversion;
            controls that start from random weights have none to mend.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schedule: Schedule = "sequential"
    order: Order = "forward"
    similarity: SimilarityName = "regression"
    similarity_options: SimilarityOptions = SimilarityOptions()
    align_examples: Positive = 1024
    align_steps: Annotated[int, Field(ge=0)] = 50
    plateau: Annotated[float, Field(ge=0, lt=1)] = 0.0
    align_batch_size: Annotated[int, Field(ge=4)] = 64
    align_learning_rate: PositiveFloat = 1e-2
    library: bool = False
    polish_steps: Annotated[int, Field(ge=0)] = 0
    recalibrate: bool = True
    hybrid_epochs: Epochs = 0.0
    settle_epochs: Epochs = 0.0
    settle_batch_size: Annotated[int, Field(ge=2)] = 16
    settle_learning_rate: PositiveFloat = 6e-3
    epochs: Epochs = 2.0
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: PositiveFloat = 6e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    distill: Annotated[float, Field(ge=0, le=1)] = 0.5
    temperature: PositiveFloat = 2.0
    gradient_clip: PositiveFloat = 1.0

    @property
    def untouched_by_guide(self) -> bool:
        """Whether candidates start from random weights in every part."""
        return self.schedule in ("scratch", "kd")

    @property
    def takes_blocks(self) -> bool:
        """Whether new blocks come from the library."""
        return self.library and not self.is_control

    @property
    def is_control(self) -> bool:
        """Whether nothing is aligned with the guide."""
        return self.schedule in ("naive", "scratch", "kd")

    @property
    def alignment(self) -> dict[str, Any]:
        """The settings that the alignment of one block by itself depends on, and no others."""
        return self.model_dump(include=ALIGNMENT)

    @property
    def settling(self) -> Recipe:
        """The recipe of the short training that follows the conversion."""
        return self.model_copy(update={
            "epochs": self.settle_epochs, "batch_size": self.settle_batch_size,
            "learning_rate": self.settle_learning_rate,
        })  # fmt: skip

    @property
    def training(self) -> dict[str, Any]:
        """The settings that task training without a teacher depends on, and no others."""
        return self.model_dump(include=TRAINING)

    @property
    def taught(self) -> bool:
        """Whether the guide's logits teach in task training."""
        return self.distill > 0 and self.schedule != "scratch"

    @property
    def id(self) -> str:
        """Eight hexadecimal digits, the same for the same recipe."""
        return short_hash(self.model_dump(), 8)


class SearchSettings(BaseModel):
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

    model_config = ConfigDict(frozen=True, extra="forbid")

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
        if item["type"] == "extra_forbidden":
            title = error.title if len(item["loc"]) == 1 else SimilarityOptions.__name__
            message, given = f"no such setting; there are {_known(title)}", ""
        lines.append(f"{setting}: {message}{given}")
    return lines


def _known(title: str) -> str:
    models = {model.__name__: model for model in (Recipe, SearchSettings, SimilarityOptions)}
    return ", ".join(models[title].model_fields)


def changed(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """A recipe with other settings; see `assigned`."""
    return assigned(recipe, assignments, "recipe")


def assigned(recipe: Model, assignments: Sequence[str], where: str) -> Model:
    """Settings of any kind, some of them changed.

    Args:
        assignments: such as ``epochs=1``; values are JSON where they read as JSON, else text.
        where: what messages call the settings.

    Raises:
        SpaceError: all mistakes together.
    """
    model = type(recipe)
    mistakes: list[str] = []
    values: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = (piece.strip() for piece in text.partition("="))
        if not equals:
            mistakes.append(f"{text!r} must read name=value, such as epochs=1")
        elif name not in model.model_fields:
            mistakes.append(f"{name}: no such setting; there are {', '.join(model.model_fields)}")
        elif name in values:
            mistakes.append(f"{name}: given twice, {values[name]!r} and {value!r}")
        else:
            values[name] = _json_or_text(value)
    try:
        found = validated(model, {**recipe.model_dump(), **values}, where)
    except SpaceError as error:
        raise SpaceError(where, [*mistakes, *error.mistakes]) from error
    if mistakes:
        raise SpaceError(where, mistakes)
    return found


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


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
