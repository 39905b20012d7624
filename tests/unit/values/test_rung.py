"""Where rungs are, and what is left of training behind them."""

from __future__ import annotations

import pytest

from nas_theseus import Recipe
from nas_theseus.values.rung import examples_left, may_stop, rungs_of


@pytest.mark.parametrize(
    ("epochs", "names"),
    [
        (8, ["converted", "epoch_2", "epoch_4"]),
        (2.5, ["converted", "epoch_1"]),
        (0.5, ["converted"]),
        (0, []),
    ],
)
def test_rungs_are_before_training_and_after_whole_epochs(epochs: float, names: list[str]) -> None:
    recipe = Recipe(epochs=epochs)
    assert [rung.name for rung in rungs_of(recipe, "val_accuracy")] == names
    scratch = recipe.model_copy(update={"schedule": "scratch"})
    assert [rung.name for rung in rungs_of(scratch, "val_accuracy")] == names[1:]


def test_examples_left_are_those_of_the_steps_behind_the_rung() -> None:
    converted, quarter, _ = rungs_of(Recipe(epochs=8), "val_accuracy")
    recipe = Recipe(epochs=8, batch_size=30)
    assert examples_left(recipe, 100, converted) == 8 * 90
    assert examples_left(recipe, 100, quarter) == 6 * 90
    assert examples_left(Recipe(epochs=2.5, batch_size=30), 100, converted) == 8 * 30  # of 7.5


def test_rungs_of_a_budget_in_steps_are_after_two_and_four_of_its_slices() -> None:
    recipe = Recipe(steps=100, batch_size=30)
    rungs = rungs_of(recipe, "val_accuracy")
    assert [(r.name, r.epoch) for r in rungs] == [
        ("converted", 0), ("step_25", 25), ("step_50", 50),
    ]  # fmt: skip
    assert [examples_left(recipe, 20, rung) for rung in rungs] == [2000, 1500, 1000]
    assert may_stop(recipe) and not may_stop(Recipe(steps=1))
    assert [rung.name for rung in rungs_of(Recipe(steps=1), "val_accuracy")] == ["converted"]
