"""Recipes: validated, hashable settings of how a candidate is converted and trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
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
Precision = Literal["auto", "float32", "bfloat16"]
ActivationsDtype = Literal["float32", "bfloat16"]

# Settings that the conversion of a single block depends on, without assembly and task training.
ALIGNMENT = {
    "similarity",
    "similarity_options",
    "align_examples",
    "align_steps",
    "plateau",
    "align_batch_size",
    "align_learning_rate",
    "activations_dtype",
    "weight_decay",
    "gradient_clip",
}
TRAINING = {
    "epochs",
    "steps",
    "batch_size",
    "micro_batch",
    "learning_rate",
    "warmup",
    "weight_decay",
    "gradient_clip",
    "freeze_statistics",
    "precision",
    "checkpointing",
}
# Settings that came after recipes were first stored. At their defaults they are left out of
# dumps and thus of ids, so that searches, libraries and guides from before are found again.
ADDED = {
    "activations_dtype",
    "settle_steps",
    "steps",
    "micro_batch",
    "warmup",
    "kept_learning_rate",
    "freeze_kept",
    "freeze_statistics",
    "hidden",
    "precision",
    "checkpointing",
    "divergence_examples",
}
# Task training with a budget in steps is scored this often at most.
SLICES = 8


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
        activations_dtype: how the guide's activations for alignment are stored. `float32` uses as
            many of `align_examples` as fit into 2 GiB. `bfloat16` takes half the space, always
            uses all examples, and needs memory only for some boundaries at once if there is a
            folder for the rest (`conversion.activations`); use it for language models.
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
        settle_steps: the same in optimiser steps; 0: `settle_epochs`.
        settle_batch_size: batch size of these steps.
        settle_learning_rate: learning rate of these steps.
        epochs: passes over the training split in task training, fractions allowed; 0 for no task
            training.
        steps: optimiser steps of task training, over as many passes as they need; 0: `epochs`. The
            network is then scored after each of up to eight equal slices, and curves and rungs
            count steps. A budget of N tokens is N / (`batch_size` · context) steps.
        batch_size: examples of one optimiser step.
        micro_batch: examples that are computed at once, whose gradients are added up. The step is
            the same but for batch norms and dropout. Default: None, the whole batch.
        learning_rate: peak of task training's one-cycle schedule (AdamW).
        warmup: share of the steps in which the learning rate rises to its peak; 0 starts at the
            peak. A network of converted blocks needs none; steps count there rather than batch
            size (RADLADS, arXiv:2505.03005).
        kept_learning_rate: learning rate of kept parts as a factor of `learning_rate`. Blocks made
            from a guide's part count as new; so do weights that kept and new parts share. For
            ablations that start from random weights every part is new.
        freeze_kept: kept parts that are not trained: True for all, or names of the guide's parts,
            with wildcards (``*.mlp``). They run in eval mode.
        freeze_statistics: whether batch norms keep their statistics in task training, as they are
            kept where pretrained networks are trained on little or other data than their own.
        weight_decay: of AdamW, in alignment and in task training.
        distill: weight of the guide's logits in the loss, 0 (labels alone) to 1 (guide alone,
            labels are not read).
        temperature: temperature of distillation, for both networks.
        hidden: weight of 1 − cosine between hidden states of the network and the guide, averaged
            over positions and over the boundaries inside the network where it has the guide's
            shape; it is added to the loss. The guide then runs for every batch. Source: Puzzle,
            arXiv:2411.19146, where it is best together with the divergence of logits.
        gradient_clip: largest norm of the gradient of one optimiser step.
        precision: of the network in task training: `float32`, or `bfloat16` under autocast with
            float32 weights and optimiser. Default: `auto`, bfloat16 on CUDA. With `bfloat16` the
            guide runs in it as well where it teaches batch by batch.
        checkpointing: whether each block is computed a second time in the backward pass instead of
            storing its activations. The gradients are the same.
        recalibrate: whether batch-norm statistics are computed again from training data after
            conversion, where that lowers the loss; not needed for ablations that start from random
            weights.
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
    activations_dtype: ActivationsDtype = "float32"
    library: bool = False
    polish_steps: Annotated[int, Field(ge=0)] = 0
    recalibrate: bool = True
    hybrid_epochs: Epochs = 0.0
    settle_epochs: Epochs = 0.0
    settle_steps: Annotated[int, Field(ge=0)] = 0
    settle_batch_size: Annotated[int, Field(ge=2)] = 16
    settle_learning_rate: PositiveFloat = 6e-3
    epochs: Epochs = 2.0
    steps: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=2)] = 128
    micro_batch: Positive | None = None
    learning_rate: PositiveFloat = 6e-3
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2
    kept_learning_rate: PositiveFloat = 1.0
    freeze_kept: bool | tuple[str, ...] = False
    freeze_statistics: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    distill: Annotated[float, Field(ge=0, le=1)] = 0.5
    temperature: PositiveFloat = 2.0
    hidden: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    gradient_clip: PositiveFloat = 1.0
    precision: Precision = "auto"
    checkpointing: bool = False
    divergence_examples: Annotated[int, Field(ge=0)] = 128

    @field_validator("freeze_kept", mode="before")
    @classmethod
    def _is_all_none_or_names(cls, given: object, others: ValidationInfo) -> object:
        names = [given] if isinstance(given, str) else given
        if isinstance(names, list | tuple):
            if not all(isinstance(name, str) and name for name in names):
                raise ValueError(f"must name parts of the guide, got {given!r}")
            return tuple(names) or False
        if not isinstance(given, bool):
            raise ValueError(f"must be true, false, or names of the guide's parts, got {given!r}")
        rate = others.data.get("kept_learning_rate", 1)
        if given and rate != 1:
            raise ValueError(
                f"true trains no kept part, so kept_learning_rate={rate:g} has no effect; leave "
                "out one of them"
            )
        return given

    @model_serializer(mode="wrap")
    def _without_added_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        defaults = {name: type(self).model_fields[name].default for name in ADDED}
        values: dict[str, Any] = dump(self)
        return {
            name: value
            for name, value in values.items()
            if name not in ADDED or getattr(self, name) != defaults[name]
        }

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
                "steps": self.settle_steps,
                "batch_size": self.settle_batch_size,
                "learning_rate": self.settle_learning_rate,
            }
        )

    @property
    def settles(self) -> bool:
        """Whether the assembled network is trained before it is first measured."""
        return bool(self.settle_steps or self.settle_epochs)

    @property
    def reports(self) -> float:
        """How often task training is scored: its epochs, or the slices of its steps."""
        return min(SLICES, self.steps) if self.steps else self.epochs

    def mark(self, report: int) -> int:
        """Where a report stands on curves: epochs done, or steps done for a budget in steps.

        Args:
            report: 0 before task training, 1 after the first epoch or slice, and so on.
        """
        return self.steps * report // min(SLICES, self.steps) if self.steps else report

    def steps_over(self, examples: int) -> int:
        """Optimiser steps of task training on a training split of so many examples."""
        return self.steps or round(self.epochs * (examples // min(self.batch_size, examples)))

    @property
    def training(self) -> dict[str, Any]:
        """Exactly the settings that task training without a teacher depends on."""
        return self.model_dump(include=TRAINING)

    @property
    def taught(self) -> bool:
        """Whether task training distils from the guide's logits."""
        return self.distill > 0 and bool(SCHEDULES[self.schedule].taught)

    @property
    def guided(self) -> bool:
        """Whether task training uses the guide at all: its logits or its hidden states."""
        return self.taught or (self.hidden > 0 and bool(SCHEDULES[self.schedule].taught))

    @property
    def id(self) -> str:
        """Eight hexadecimal digits, equal for equal recipes."""
        return short_hash(self.model_dump(), 8)


def changed(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """A recipe with changed settings; see `assigned`."""
    return assigned(recipe, assignments, "recipe")
