"""What a task must give: each mistake of a user's own task is one sentence, never a traceback."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_theseus import Boundary, Recipe, SearchSpace, cut
from nas_theseus.blocks import Keep, Linear
from nas_theseus.space.mistakes import mistakes_in
from nas_theseus.tasks import (
    Batch,
    Split,
    diabetes,
    digit_masks,
    digits,
    own_metric,
    text_file,
)
from nas_theseus.tasks.contract import behaviour_mistakes, declaration_mistakes


class Mean:
    """The share of right answers."""

    higher_is_better = True

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.right = self.count = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.right += int((outputs.argmax(1) == targets).sum())
        self.count += len(targets)

    def compute(self) -> float:
        return self.right / self.count


class Own:
    """A task that is written from the protocol alone."""

    name = "own"
    metric = "share"
    direction = "maximize"
    inlet = Boundary((4,))
    outputs = Boundary((3,))
    sizes: dict[str, int] = {"train": 40, "validation": 10, "test": 10}  # noqa: RUF012

    def data_hash(self) -> str:
        return "0123456789abcdef"

    def size(self, split: Split) -> int:
        return self.sizes[split]

    def batches(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int | None = None,
        device: str | torch.device = "cpu",
        limit: int | None = None,
    ) -> Iterator[Batch]:
        draw = torch.Generator().manual_seed(seed or 0)
        left = min(self.size(split), limit or 100)
        while left > 0:
            count = min(left, batch_size)
            inputs = torch.randn(count, 4, generator=draw)
            yield Batch(inputs.to(device), (inputs[:, 0] > 0).long().to(device))
            left -= count

    def sample(self, count: int) -> Tensor:
        return torch.zeros(count, 4)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def meter(self) -> Any:
        return Mean()

    def distillation(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return (outputs - teacher).square().mean()


def changed(**members: Any) -> Any:
    return type("Changed", (Own,), members)()


def said_of(task: Any, taught: bool = True) -> list[str]:
    return declaration_mistakes(task) or behaviour_mistakes(task, taught)


@pytest.mark.parametrize("make", [Own, digits, digit_masks, diabetes])
def test_good_tasks_have_no_mistakes(make: Any) -> None:
    assert said_of(make()) == []


def test_a_text_has_no_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("to be or not to be, " * 60, encoding="utf-8")
    assert said_of(text_file(path, context=8)) == []


def failing(*_arguments: Any, **_options: Any) -> Any:
    raise RuntimeError("no such thing\nin detail")


def first_batch(**fields: Any) -> Any:
    """`batches` whose batches have other fields."""

    def batches(self: Own, *arguments: Any, **options: Any) -> Iterator[Batch]:
        for batch in Own.batches(self, *arguments, **options):
            yield batch._replace(**{name: make(batch) for name, make in fields.items()})

    return batches


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"metric": "acc@5"}, "metric 'acc@5': a name can only have letters, digits, '_' and '.'"),
        ({"metric": None}, "Changed has no `metric`"),
        ({"metric": 3}, "metric 3: a name can only have"),
        ({"name": ""}, "name must be a text that is not empty, not '' (str)"),
        ({"direction": "up"}, "direction must be 'maximize' or 'minimize', not 'up' (str)"),
        ({"inlet": (4,)}, "inlet must be a Boundary of sizes above 0, such as Boundary((3, 32, 32"),
        ({"outputs": Boundary((0,))}, "outputs must be a Boundary of sizes above 0"),
        ({"inlet": Boundary((1, 2, 3, 4))}, "inlet must be a Boundary (C,H,W), (T,D) or (D,)"),
        ({"inlet": Boundary((2, 3), integer=True)}, "or (T,) of token ids, not"),
        ({"outputs": property(failing)}, "outputs cannot be read: RuntimeError: no such thing"),
        ({"meter": "accuracy"}, "`meter` must be a method, not 'accuracy' (str)"),
        ({"loss": None, "meter": None}, "Changed has no `loss` or `meter`; `nas_theseus.tasks.Ta"),
    ],
)
def test_names_and_shapes(members: dict[str, Any], message: str) -> None:
    (said,) = declaration_mistakes(changed(**members))
    assert message in said and "\n" not in said


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"data_hash": failing}, "data_hash() cannot be read: RuntimeError: no such thing"),
        ({"data_hash": lambda self: 3}, "data_hash() must be a text, the same for the same data"),
        ({"size": lambda self, split: 10.0}, "size('train') must be the number of examples"),
        ({"size": lambda self, split: 0}, "at least 1, not 0 (int)"),
        ({"sample": lambda self, count: torch.zeros(4)}, "sample(1) must be a tensor of shape (1,"),
        ({"batches": failing}, "batches('train', …): RuntimeError: no such thing"),
        ({"batches": lambda self, *_, **__: iter(())}, "batches('train', 8, seed=0) gives no bat"),
        ({"batches": lambda self, *_, **__: iter([3])}, "must give Batch(inputs, targets, index)"),
        ({"batches": first_batch(inputs=lambda b: b.inputs[:, :3])}, "inputs of shape (8, 3)"),
        ({"batches": first_batch(inputs=lambda b: b.inputs.long())}, "inputs of torch.int64; the"),
        ({"batches": first_batch(inputs=lambda b: b.inputs.tolist())}, "must give tensors, not [["),
        ({"batches": first_batch(inputs=lambda b: b.inputs * math.nan)}, "gives inputs that are N"),
        ({"batches": first_batch(targets=lambda b: b.targets[1:])}, "8 inputs and 7 targets"),
        ({"batches": first_batch(index=lambda b: b.targets[1:])}, "not one position for each"),
        ({"batches": first_batch(inputs=lambda b: torch.rand(8, 4))}, "one seed must give one ord"),
    ],
)
def test_data(members: dict[str, Any], message: str) -> None:
    said = behaviour_mistakes(changed(**members), taught=False)
    assert any(message in one for one in said), said
    assert all(one.startswith("task 'own': ") and "\n" not in one for one in said)


class NoReset(Mean):
    def __init__(self) -> None:
        self.right, self.count = 100, 100

    def reset(self) -> None:
        pass


def meter_of(**members: Any) -> Any:
    return lambda self: type("Meter", (Mean,), members)()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"loss": failing}, "loss: RuntimeError: no such thing"),
        ({"loss": lambda self, o, t: 3.0}, "loss must give a scalar tensor, the mean over the ba"),
        ({"loss": lambda self, o, t: o.mean(1)}, "not a tensor of shape (8,)"),
        ({"loss": lambda self, o, t: o.sum() * math.inf}, "loss of random outputs is"),
        ({"loss": lambda self, o, t: o.detach().mean()}, "loss has no gradient"),
        ({"meter": failing}, "metric: RuntimeError: no such thing"),
        ({"meter": lambda self: "accuracy"}, "has no `update`, `compute` or `reset`"),
        ({"meter": lambda self: NoReset()}, "reset() must forget what came before"),
        ({"meter": meter_of(compute=lambda self: math.nan)}, "of random outputs is NaN"),
        ({"meter": meter_of(compute=lambda self: torch.zeros(3))}, "returns shape (3,), but must"),
        ({"meter": meter_of(compute=failing)}, "RuntimeError: no such thing"),
        ({"distillation": lambda self, o, t, x: o.sum() * 0}, "distillation is 0 for any ou"),
        (
            {"distillation": lambda self, o, t, x: -(o - t).square().mean()},
            "distillation is greater for the guide's own outputs than for others",
        ),
        ({"distillation": failing}, "distillation: RuntimeError: no such thing"),
    ],
)
def test_loss_metric_and_distillation(members: dict[str, Any], message: str) -> None:
    (said,) = behaviour_mistakes(changed(**members), taught=True)
    assert message in said and said.startswith("task 'own': ") and "\n" not in said


def test_a_softmax_over_one_number_is_found() -> None:
    """What distillation of numbers once was."""

    def softmax(self: Own, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        logs = (x.unsqueeze(-1).log_softmax(-1) for x in (outputs, teacher))
        return nn.functional.kl_div(*logs, reduction="batchmean", log_target=True)

    (said,) = said_of(changed(distillation=softmax))
    assert "is a softmax taken over an axis of size 1?" in said


def space_of(task: Any, **options: Any) -> SearchSpace:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return SearchSpace(guide=cut(net, ["0"], (4,)), task=task, blocks=[Keep(), Linear()], **options)


def test_a_space_tells_what_its_tasks_lack() -> None:
    assert mistakes_in(space_of(Own())) == []
    lacking = changed(distillation=None)
    (said,) = mistakes_in(space_of(lacking))
    assert "has no distillation, and recipe.distill is above 0; set Recipe(distill=0)" in said
    assert mistakes_in(space_of(lacking, recipe=Recipe(distill=0))) == []
    assert mistakes_in(space_of(lacking, recipe=Recipe(schedule="scratch"))) == []
    (said,) = mistakes_in(space_of(Own(), guide_task=changed(loss=failing)))
    assert said == "guide_task: task 'own': loss: RuntimeError: no such thing"
    (said,) = mistakes_in(space_of(changed(metric="acc@5")))
    assert said.startswith("task: metric 'acc@5': a name can only have")


def test_ready_tasks_with_metrics_that_cannot_be() -> None:
    (said,) = declaration_mistakes(dataclasses.replace(digits(), metric="acc@5"))
    assert said.startswith("metric 'acc@5': a name can only have letters, digits")
    (said,) = declaration_mistakes(digits(metric="acuracy"))
    assert said.startswith("direction cannot be read: unknown metric 'acuracy'; use accuracy")
    (said,) = said_of(digits(metric="mean_iou"))
    assert said.startswith("task 'digits': mean_iou supports maps, but the task's targets are")
    (said,) = declaration_mistakes(digits(metric=own_metric(Mean(), "mean share")))
    assert said.startswith("metric 'mean share': a name can only have")


def test_a_distillation_that_only_scores_blocks_is_checked_too() -> None:
    broken = changed(distillation=failing)
    (said,) = behaviour_mistakes(broken, taught=False, scored=True)
    assert "distillation: RuntimeError: no such thing" in said
    assert said.endswith("; or set Recipe(divergence_examples=0)")
    assert behaviour_mistakes(broken, taught=False) == []
    assert behaviour_mistakes(changed(distillation=None), taught=False, scored=True) == []
