"""Regression: standardised targets, metrics in their own units, refusals, a real conversion."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from torch import nn

from nas_theseus.conversion.finetune import train
from nas_theseus.errors import DataError, ShapeError
from nas_theseus.space.load import load_space
from nas_theseus.tasks import SPLITS, NumberTask, diabetes, regression
from nas_theseus.tasks.score import score

from .conversions import converted

SPACE = Path(__file__).parents[3] / "search_spaces" / "diabetes_regression.py"


def rows(count: int, seed: int = 0) -> list[tuple[Any, Any]]:
    random = np.random.RandomState(seed)
    return [(random.randn(3), (1000.0 * number, number % 2)) for number in range(count)]


def small(**options: Any) -> NumberTask:
    given = {"inlet": (3,), "numbers": 2, **options}
    return regression(given.pop("train", rows(20)), given.pop("test", rows(6, 1)), **given)


def test_diabetes_is_split_completely_and_standardised_by_its_training_split() -> None:
    task = diabetes()
    assert [task.size(split) for split in SPLITS] == [266, 88, 88]
    batches = {split: next(task.batches(split, 300)) for split in SPLITS}
    for tensor in (batches["train"].inputs, batches["train"].targets):
        assert tensor.dtype == torch.float32
        assert torch.allclose(tensor.mean(0), torch.zeros(1), atol=1e-4)
        assert torch.allclose(tensor.std(0, correction=0), torch.ones(1), atol=1e-4)
    mean, deviation = task.scale
    restored = torch.cat([batches[split].targets for split in SPLITS]) * deviation + mean
    expected = sorted(load_diabetes().target.tolist())
    assert sorted(restored.flatten().tolist()) == pytest.approx(expected, rel=1e-4)
    assert task.data_hash() == diabetes().data_hash() != diabetes(seed=1).data_hash()


class Mean(nn.Module):
    """Always answers the mean of standardised targets."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.zero.expand(len(x), 1)


def test_metrics_are_in_the_units_of_the_targets() -> None:
    task = diabetes(metric="mean_absolute_error")
    mean, deviation = task.scale
    targets = next(task.batches("validation", 100)).targets * deviation + mean
    expected = float((targets - mean).abs().mean())
    assert 30 < expected < 100
    assert score(Mean(), task, "validation") == pytest.approx(expected, rel=1e-5)
    assert task.direction == "minimize"
    assert score(Mean(), diabetes(), "train") == pytest.approx(0, abs=1e-5)


def test_the_mean_has_loss_one_in_whatever_units() -> None:
    for standardise in (True, False):
        task = small(standardise=standardise)
        batch = next(task.batches("train", 100))
        answer = torch.zeros(2) if standardise else task.scale[0].float()
        loss = task.loss(answer.expand(len(batch.targets), 2), batch.targets)
        assert float(loss) == pytest.approx(1, rel=1e-4)
    assert float(batch.targets.max()) >= 18_000


def test_single_numbers_and_images_are_taken_as_well() -> None:
    data = [(torch.full((1, 2, 2), n, dtype=torch.uint8), float(n)) for n in range(20)]
    task = regression(data, data[:5], inlet=(1, 2, 2))
    assert task.outputs.shape == (1,)
    assert next(task.batches("train", 4)).targets.shape == (4, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numbers": 3}, r"train: target 0 has shape \(2,\), expected \(3,\)"),
        ({"test": [(np.zeros(3), (math.nan, 0.0))]}, "test: target 0 is .*nan.* not finite"),
        ({"train": [(np.zeros(3), (math.inf, 0.0))]}, "train: target 0 is .*inf.* not finite"),
        ({"train": [(np.full(3, np.nan), (1.0, 0.0))]}, "train input 0 has NaN or infinite"),
        ({"train": [(np.zeros(4), (1.0, 0.0))]}, r"train input 0 has shape \(4,\), expected \(3,"),
        ({"train": [(x, (y, 7.0)) for x, (y, _) in rows(9)]}, "number 1 is 7 in all training"),
        ({"validation_share": 0.0}, "between 0 and 1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        small(**options).size("train")


def test_outputs_of_another_shape_are_refused() -> None:
    task = small()
    with pytest.raises(ShapeError, match=r"\(4,\), expected \(4, 2\) \(batch, numbers\)"):
        task.loss(torch.zeros(4), torch.zeros(4, 2))


def test_a_guide_for_numbers_is_converted_and_taught() -> None:
    space = load_space(SPACE)
    assert space.guide_training is not None and space.recipe.taught
    for _ in train(space.guide, space.task, space.guide_training, seed=0):
        pass
    guide = score(space.guide, space.task, "validation")
    assert guide > 0.3
    found = converted(space, {1: "mlp", 2: "identity"})
    assert space.metric == "val_r2" and found.evaluation.metrics[space.metric] > 0.75 * guide
