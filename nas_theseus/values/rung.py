"""Rungs: the points in a candidate's training where candidates are compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nas_theseus.values.outcomes import Evaluation
from nas_theseus.values.recipe import Recipe

_MIN_EPOCHS = 2
_SHARES = (0.25, 0.5)


@dataclass(frozen=True)
class Rung:
    """A point in a candidate's training.

    Attributes:
        metric: metric by which candidates are compared, besides costs.
        epoch: epochs of task training before it; steps where its budget is in steps.
    """

    name: str
    metric: str
    epoch: int

    def quality(self, evaluation: Evaluation) -> float | None:
        """The metric at the rung; None if the candidate has not reached it."""
        there = (self.metric, self.epoch)
        return next((p.value for p in evaluation.curve if (p.metric, p.step) == there), None)


def rungs_of(recipe: Recipe, metric: str) -> tuple[Rung, ...]:
    """Rungs before task training, and after a quarter and half of its epochs, in whole epochs.

    A budget in steps has slices in place of epochs (`Recipe.steps`).

    Ablations without alignment have no rung before task training: their quality then says nothing.
    """
    if recipe.reports == 0:
        return ()
    marks = {0, *(recipe.mark(int(share * recipe.reports)) for share in _SHARES)}
    marks -= {0} if recipe.is_control else set()
    unit = "step" if recipe.steps else "epoch"
    return tuple(
        Rung(f"{unit}_{mark}" if mark else "converted", metric, mark) for mark in sorted(marks)
    )


def may_stop(recipe: Recipe) -> bool:
    """Whether task training is long enough for early stopping to save work."""
    return recipe.reports >= _MIN_EPOCHS


def examples_left(recipe: Recipe, examples: int, rung: Rung) -> int:
    """Examples of task training that remain after a rung.

    Args:
        examples: number of examples in the training split.
    """
    batch = min(recipe.batch_size, examples)
    done = rung.epoch if recipe.steps else rung.epoch * (examples // batch)
    return (recipe.steps_over(examples) - done) * batch


def qualities(evaluation: Evaluation, rungs: Iterable[Rung]) -> dict[str, float]:
    """The metric at each rung that a candidate has reached, by rung name."""
    found = {rung.name: rung.quality(evaluation) for rung in rungs}
    return {name: quality for name, quality in found.items() if quality is not None}
