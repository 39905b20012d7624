"""Chance on ready tasks against closed forms, and on tasks of one's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas_theseus.errors import DataError
from nas_theseus.tasks import digits, from_datasets, multilabel, regression, text_file
from nas_theseus.tasks.floor import chance_of


def validation_targets(task: Any) -> torch.Tensor:
    return torch.cat([batch.targets for batch in task.batches("validation", 64)])


def test_of_classes_it_is_the_share_of_the_most_frequent() -> None:
    task = digits()
    counts = np.bincount(validation_targets(task).numpy())
    assert chance_of(task) == pytest.approx(counts.max() / counts.sum())


def test_of_tokens_it_is_the_perplexity_of_their_frequencies(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("a rose is a rose is a rose, and bees know it. " * 60)
    task = text_file(path, context=8)
    counts = np.bincount(validation_targets(task).flatten().numpy())
    shares = counts[counts > 0] / counts.sum()
    entropy = -(shares * np.log(shares)).sum()
    found = chance_of(task)
    assert found == pytest.approx(math.exp(entropy), rel=1e-4)
    assert found is not None and found < task.outputs.shape[1]  # better than uniform tokens


def test_of_numbers_it_is_the_error_of_their_mean() -> None:
    rows = np.random.default_rng(0).normal(3.0, 2.0, (60, 5)).astype(np.float32)
    examples = [(row[:4], row[4:]) for row in rows]
    task = regression(examples[:50], examples[50:], (4,), metric="root_mean_squared_error")
    own_units = validation_targets(task).double() * task.scale[1] + task.scale[0]
    assert chance_of(task) == pytest.approx(float(own_units.std(correction=0)), rel=1e-5)
    r2 = regression(examples[:50], examples[50:], (4,))
    assert chance_of(r2) == pytest.approx(0.0, abs=1e-5)


def test_of_several_labels_each_is_answered_by_its_share() -> None:
    draw = np.random.default_rng(0)
    rows = [
        (draw.normal(size=(1, 4, 4)).astype(np.float32), np.array([1, int(i % 4 == 0)]))
        for i in range(80)
    ]
    task = multilabel(rows[:60], rows[60:], (1, 4, 4), labels=2, metric="accuracy")
    shares = validation_targets(task).double().mean(0)
    assert chance_of(task) == pytest.approx(float(torch.maximum(shares, 1 - shares).mean()))


class Undefined:
    """A metric that is not defined for equal outputs."""

    higher_is_better = True

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        if float(outputs.std(dim=0).sum()) == 0:
            raise ZeroDivisionError("no spread")

    def compute(self) -> float:
        return 1.0

    def reset(self) -> None:
        pass


def test_a_metric_that_equal_outputs_have_not_gives_no_chance() -> None:
    draw = np.random.default_rng(0).normal(size=(40, 1, 4, 4)).astype(np.float32)
    rows = [(one, i % 2) for i, one in enumerate(draw)]
    task = from_datasets(rows[:30], rows[30:], (1, 4, 4), classes=2, metric=Undefined())
    assert chance_of(task) is None


class Own:
    """A task that is no more than what is asked of it here."""

    name, metric = "mine", "score"

    def __init__(self, chance: Any = None) -> None:
        if chance is not None:
            self.chance = chance


def test_a_task_of_ones_own_may_tell_it() -> None:
    assert chance_of(Own()) is None  # type: ignore[arg-type]
    assert chance_of(Own(lambda: None)) is None  # type: ignore[arg-type]
    assert chance_of(Own(lambda: torch.tensor(0.25))) == 0.25  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("chance", "message"),
    [
        (0.1, "chance must be a method, not 0.1"),
        (lambda: 1 / 0, r"chance\(\) failed with ZeroDivisionError"),
        (lambda: "half", "must return one number"),
        (lambda: math.nan, r"chance\(\) returns nan"),
    ],
)
def test_a_wrong_chance_is_refused(chance: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        chance_of(Own(chance))  # type: ignore[arg-type]
