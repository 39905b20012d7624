"""Several labels an example: loss, probabilities for metrics, refusals, and training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from nas_theseus import Recipe
from nas_theseus.conversion.finetune import train
from nas_theseus.errors import DataError, ShapeError
from nas_theseus.tasks import LabelTask, multilabel
from nas_theseus.tasks.score import score


def rows(count: int, seed: int = 0) -> list[tuple[Any, Any]]:
    inputs = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    return [(row, (row[:3] > 0).int()) for row in inputs]


def small(**options: Any) -> LabelTask:
    given = {"inlet": (5,), "labels": 3, **options}
    return multilabel(given.pop("train", rows(300)), given.pop("test", rows(50, 1)), **given)


def test_loss_is_the_mean_over_labels() -> None:
    task, outputs = small(), torch.randn(4, 3)
    targets = torch.tensor([[1.0, 0, 1]] * 4)
    expected = -(targets * functional.logsigmoid(outputs)).sum()
    expected -= ((1 - targets) * functional.logsigmoid(-outputs)).sum()
    assert float(task.loss(outputs, targets)) == pytest.approx(float(expected) / 12, rel=1e-5)
    with pytest.raises(ShapeError, match=r"\(4, 2\), expected \(4, 3\) \(batch, labels\)"):
        task.loss(outputs[:, :2], targets)


def test_logits_between_zero_and_one_are_not_taken_for_probabilities() -> None:
    meter = small().meter()
    meter.update(torch.full((4, 3), 0.2), torch.ones(4, 3))
    assert float(meter.compute()) == 1.0


def test_labels_are_learnt() -> None:
    torch.manual_seed(0)
    net, task = nn.Linear(5, 3), small()
    assert score(net, task, "validation") < 0.8
    for _ in train(
        net, task, Recipe(epochs=60, distill=0, batch_size=32, learning_rate=3e-2), seed=0
    ):
        pass
    assert score(net, task, "validation") > 0.95


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ((1, 0), r"target 0 must be 3 zeros and ones, .* it is \(1, 0\)"),
        ((1, 0, 2), r"it is \(1, 0, 2\)"),
        (1, "it is 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(target: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        small(train=[(torch.zeros(5), target)] * 9).size("train")
