"""How a candidate is made from the guide and trained: a validated, hashable recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from nas_theseus.errors import TheseusError
from nas_theseus.values.ids import short_hash
from nas_theseus.values.own_members import (
    SCHEDULE,
    SIMILARITY,
    Kind,
    is_version,
    recorded_name,
    with_options,
)
from nas_theseus.values.registers import SCHEDULES, SIMILARITIES
from nas_theseus.values.validation import Epochs, Positive, PositiveFloat, Settings, assigned

Order = Literal["forward", "reverse"]

# What the conversion of one block depends on: not how blocks are put together, nor task training.
ALIGNMENT = {
    "similarity", "similarity_options", "align_examples", "align_steps", "plateau",
    "align_batch_size", "align_learning_rate", "weight_decay", "gradient_clip",
}  # fmt: skip
TRAINING = {"epochs", "batch_size", "learning_rate", "weight_decay", "gradient_clip"}


# Given to validation for values that a recipe has held before.
_FROM_RECORD = {"from_record": True}


def _recorded(kind: Kind) -> BeforeValidator:
    """Turn an object of the user's own into the name that recipes hold, and check names."""

    def recorded(given: object, info: ValidationInfo) -> str:
        if info.context == _FROM_RECORD and isinstance(given, str) and is_version(given):
            return given
        try:
            return recorded_name(kind, given)
        except TheseusError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(recorded)


class SimilarityOptions(Settings):
    """What a similarity compares; None leaves what suits it best (`conversion.similarities`).

    Which of these options a similarity has, `Recipe` checks; those of a user's own similarity may
    have other names as well, and are then numbers, texts or booleans.

    Attributes:
        examples: what an example is on maps and tokens: the whole, or each position.
        pool: average feature maps down to pool x pool before CKA or D-MNN; 0 for no pooling.
        project: fixed random projection to this width before CKA or D-MNN; 0 for none.
        rows: at most so many positions are compared.
        temperature: of D-MNN's softmax.
        k: neighbours of D-MNN.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    examples: Literal["maps", "positions"] | None = None
    pool: Annotated[int, Field(ge=0)] | None = None
    project: Annotated[int, Field(ge=0)] | None = None
    rows: Positive | None = None
    temperature: PositiveFloat | None = None
    k: Positive | None = None

    @model_validator(mode="after")
    def _can_be_part_of_an_id(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            finite = not isinstance(value, float) or math.isfinite(value)
            if not isinstance(value, bool | int | float | str | None) or not finite:
                raise ValueError(f"{name} must be a finite number, text or boolean, got {value!r}")
        return self

    @property
    def given(self) -> dict[str, object]:
        """The options that were set, as `conversion.similarity` takes them; pool 0 is no pool."""
        chosen = self.model_dump(exclude_none=True)
        off = {name for name in ("pool", "project") if chosen.get(name) == 0}
        return {name: None if name in off else value for name, value in chosen.items()}


class Recipe(Settings):
    """How a candidate is made from the guide and trained: conversion, then the task.

    Attributes:
        schedule: how blocks are aligned; a name from `conversion.schedules`, or an object of the
            user's own (`conversion.stage.Schedule`). Controls: `naive` (put in without alignment),
            `scratch` (nothing of the guide) and `kd` (scratch, taught by the guide's logits).
            Source: Network of Theseus, figures 1 and 2.
        order: input to output, or output to input.
        similarity: what alignment maximises; a name from `conversion.similarities`, or an object of
            the user's own (`conversion.similarity.Similarity`). Objects are held by the name that
            `recorded_name` gives them.
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

    # Any, so that type checkers allow objects; what the recipe holds is text.
    schedule: Annotated[Any, _recorded(SCHEDULE)] = "sequential"
    order: Order = "forward"
    similarity: Annotated[Any, _recorded(SIMILARITY)] = "regression"
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

    @field_validator("similarity_options")
    @classmethod
    def _are_of_the_similarity(
        cls, options: SimilarityOptions, given: ValidationInfo
    ) -> SimilarityOptions:
        name = given.data.get("similarity")
        if given.context != _FROM_RECORD and name is not None and options.given:
            try:
                with_options(SIMILARITIES, name, options.given)
            except TheseusError as error:
                raise ValueError(str(error)) from error
        return options

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe that a record holds, whether or not its own members are loaded here.

        A library is read, verified and emptied without the space files that filled it. Whatever
        then asks for the similarity or schedule itself gets an `UnknownNameError` with the remedy.

        Raises:
            ValueError: the values are no recipe.
        """
        return cls.model_validate(values, context=_FROM_RECORD)

    @property
    def untouched_by_guide(self) -> bool:
        """Whether candidates start from random weights in every part."""
        return bool(SCHEDULES[self.schedule].fresh)

    @property
    def takes_blocks(self) -> bool:
        """Whether new blocks come from the library."""
        return self.library and not self.is_control

    @property
    def is_control(self) -> bool:
        """Whether nothing is aligned with the guide."""
        return bool(SCHEDULES[self.schedule].is_control)

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
        return self.distill > 0 and bool(SCHEDULES[self.schedule].taught)

    @property
    def id(self) -> str:
        """Eight hexadecimal digits, the same for the same recipe."""
        return short_hash(self.model_dump(), 8)


def changed(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """A recipe with other settings; see `assigned`."""
    return assigned(recipe, assignments, "recipe")
