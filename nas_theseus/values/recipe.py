"""Recipes: validated, hashable settings of how a candidate is converted and trained."""

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

# Settings that the conversion of a single block depends on, without assembly and task training.
ALIGNMENT = {
    "similarity",
    "similarity_options",
    "align_examples",
    "align_steps",
    "plateau",
    "align_batch_size",
    "align_learning_rate",
    "weight_decay",
    "gradient_clip",
}
# Settings that earlier versions did not have. At their defaults they are left out of a recipe's id,
# so that searches of those versions can be continued.
_ADDED = {"divergence_examples"}
TRAINING = {"epochs", "batch_size", "learning_rate", "weight_decay", "gradient_clip"}


# Validation context for values from a recorded recipe.
_FROM_RECORD = {"from_record": True}


def _recorded(kind: Kind) -> BeforeValidator:
    """Validator that replaces a user's own object by its name in recipes, and checks names."""

    def recorded(given: object, info: ValidationInfo) -> str:
        if info.context == _FROM_RECORD and isinstance(given, str) and is_version(given):
            return given
        try:
            return recorded_name(kind, given)
        except TheseusError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(recorded)


class SimilarityOptions(Settings):
    """Options of a similarity; None keeps the similarity's default (`conversion.similarities`).

    `Recipe` checks which of these options the similarity has. A user's own similarity can have
    options with other names, which must be numbers, text or booleans.

    Attributes:
        examples: whether an example is a whole map or sequence, or each position.
        pool: average feature maps down to pool x pool before CKA or D-MNN; 0 for no pooling.
        project: fixed random projection to this width before CKA or D-MNN; 0 for none.
        rows: largest number of positions that are compared.
        temperature: temperature of D-MNN's softmax.
        k: number of D-MNN's neighbours.
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
        """The options that were set, for `conversion.similarity`; a pool of 0 becomes None."""
        chosen = self.model_dump(exclude_none=True)
        off = {name for name in ("pool", "project") if chosen.get(name) == 0}
        return {name: None if name in off else value for name, value in chosen.items()}


class Recipe(Settings):
    """How a candidate is made from the guide and trained: conversion, then task training.

    Attributes:
        schedule: how blocks are aligned: a name from `conversion.schedules`, or the user's own
            object (`conversion.stage.Schedule`). Ablations: `naive` (blocks inserted without
            alignment), `scratch` (nothing from the guide) and `kd` (scratch, distilled from the
            guide's logits). Source: Network of Theseus, figures 1 and 2.
        order: input to output, or output to input.
        similarity: what alignment maximises: a name from `conversion.similarities`, or the user's
            own object (`conversion.similarity.Similarity`). Objects are stored by their
            `recorded_name`.
        similarity_options: options of the similarity.
        align_examples: number of training inputs used by alignment; a block needs a few thousand
            at most.
        align_steps: largest number of optimiser steps of one stage.
        plateau: early stopping of a stage: it ends when its loss, averaged over one pass through
            its sample, is not lower by this share than in the pass before. 0 always runs all
            `align_steps`.
        align_batch_size: batch size of alignment; `cka` and `dmnn` compare examples with each other
            and need larger batches (the source used 256).
        align_learning_rate: peak of a stage's cosine schedule (AdamW). If the loss ends higher than
            it began, the stage is repeated with a quarter of it, then with a sixteenth.
        library: whether new blocks start as the library's, each converted on its own; the schedule
            then only polishes them. Searches set this themselves (`--no-library`); ablations never
            use blocks of the library.
        polish_steps: replaces `align_steps` for blocks from the library; 0 does not polish them.
        hybrid_epochs: passes over the training split after every stage, in which the replaced
            blocks are trained on the task within the frozen guide (Network of Theseus, figure 4);
            0 for none (figure 1).
        settle_epochs: passes over the training split in which the assembled network is trained as
            a whole, in small batches, before it is first measured; 0 for none. After these steps,
            quality predicts final quality far better than right after conversion. Task training
            follows with its own schedule.
        settle_batch_size, settle_learning_rate: batch size and learning rate of these steps.
        epochs: passes over the training split in task training, fractions allowed; 0 for no task
            training.
        learning_rate: peak of task training's one-cycle schedule (AdamW).
        distill: weight of the guide's logits in the loss, 0 (labels alone) to 1 (guide alone).
        temperature: temperature of distillation, for both networks.
        recalibrate: whether batch-norm statistics are computed again from training data after
            conversion; not needed for ablations that start from random weights.
        divergence_examples: number of validation examples on which the divergence of a block of the
            library is measured (`conversion.divergence`); 0 does not measure it. Candidates do not
            depend on it, only what is proposed.
    """

    # Any, so that type checkers allow objects; the stored value is text.
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
    divergence_examples: Annotated[int, Field(ge=0)] = 128

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
        """The recipe in a record, even if its users' own members are not loaded here.

        A library can be read, verified and pruned without the space files that filled it. Access
        to the similarity or schedule itself then raises an `UnknownNameError` with the remedy.

        Raises:
            ValueError: the values are not a recipe.
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
        """Whether this is an ablation, in which nothing is aligned with the guide."""
        return bool(SCHEDULES[self.schedule].is_control)

    @property
    def alignment(self) -> dict[str, Any]:
        """Exactly the settings that the alignment of a single block depends on."""
        return self.model_dump(include=ALIGNMENT)

    @property
    def settling(self) -> Recipe:
        """The recipe of the short training that follows the conversion."""
        return self.model_copy(
            update={
                "epochs": self.settle_epochs,
                "batch_size": self.settle_batch_size,
                "learning_rate": self.settle_learning_rate,
            }
        )

    @property
    def training(self) -> dict[str, Any]:
        """Exactly the settings that task training without a teacher depends on."""
        return self.model_dump(include=TRAINING)

    @property
    def taught(self) -> bool:
        """Whether task training distils from the guide's logits."""
        return self.distill > 0 and bool(SCHEDULES[self.schedule].taught)

    @property
    def id(self) -> str:
        """Eight hexadecimal digits, equal for equal recipes."""
        settings = self.model_dump()
        at_default = {n for n in _ADDED if settings[n] == type(self).model_fields[n].default}
        return short_hash({n: v for n, v in settings.items() if n not in at_default}, 8)


def changed(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """A recipe with changed settings; see `assigned`."""
    return assigned(recipe, assignments, "recipe")
