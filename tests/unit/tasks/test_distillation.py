"""Distillation: right along the right axis, zero for the teacher, comparable with the loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, kl_divergence
from torch.utils.data import TensorDataset

from nas_theseus.tasks import Task, diabetes, digit_masks, digits, multilabel, regression, text_file
from nas_theseus.tasks.distillation import of_classes, of_labels, of_numbers


def random(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("shape", "dim"), [((5, 4), 1), ((5, 4, 6, 7), 1), ((5, 6, 4), -1)])
def test_classes_are_compared_along_their_own_axis(shape: tuple[int, ...], dim: int) -> None:
    student, teacher = random(*shape), random(*shape, seed=1)
    logits = [x.movedim(dim, -1) / 2 for x in (teacher, student)]
    expected = 4 * kl_divergence(*(Categorical(logits=x) for x in logits)).mean()
    assert float(of_classes(student, teacher, 2.0, dim)) == pytest.approx(float(expected), 1e-4)
    assert float(of_classes(teacher, teacher, 2.0, dim)) == pytest.approx(0, abs=1e-6)


def test_a_shift_of_all_logits_of_a_pixel_changes_nothing() -> None:
    """A softmax over the image's width, as it once was, would see it."""
    student, teacher = random(4, 3, 8, 8), random(4, 3, 8, 8, seed=1)
    before = of_classes(student, teacher, 2.0, 1)
    shifted = of_classes(student + random(4, 1, 8, 8, seed=2), teacher, 2.0, 1)
    assert float(shifted) == pytest.approx(float(before), rel=1e-4)


def test_labels_are_compared_one_by_one() -> None:
    student, teacher = random(5, 4), random(5, 4, seed=1)
    sides = (Bernoulli(logits=x / 2) for x in (teacher, student))
    expected = 4 * kl_divergence(*sides).mean()
    assert float(of_labels(student, teacher, 2.0)) == pytest.approx(float(expected), 1e-4)
    assert float(of_labels(teacher, teacher, 2.0)) == pytest.approx(0, abs=1e-6)
    extreme = of_labels(torch.full((1, 1), 300.0), torch.full((1, 1), -300.0), 1.0)
    assert torch.isfinite(extreme)


def test_numbers_are_compared_in_units_of_their_spread() -> None:
    student, teacher = random(5, 2), random(5, 2, seed=1)
    scale = torch.tensor([1.0, 1000.0])
    plain = of_numbers(student, teacher, torch.ones(2))
    assert float(plain) == pytest.approx(float(((student - teacher) ** 2).mean()))
    assert float(of_numbers(student * scale, teacher * scale, scale)) == pytest.approx(float(plain))


def labels() -> Task:
    data = TensorDataset(random(20, 1, 4, 4), (random(20, 3) > 0).float())
    return multilabel(data, data, inlet=(1, 4, 4), labels=3)


def text(tmp_path_factory: pytest.TempPathFactory) -> Task:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("to be or not to be, " * 60, encoding="utf-8")
    return text_file(path, context=8)


@pytest.mark.parametrize("kind", ["classes", "maps", "labels", "numbers", "tokens"])
def test_every_ready_task_distils(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    made = {"classes": digits, "maps": digit_masks, "labels": labels, "numbers": diabetes}
    task = made[kind]() if kind in made else text(tmp_path_factory)
    teacher = random(6, *task.outputs.shape)
    outputs = random(6, *task.outputs.shape, seed=1).requires_grad_()
    found = task.distillation(outputs, teacher, 2.0)
    (gradient,) = torch.autograd.grad(found, outputs)
    assert found.dim() == 0 and float(found.detach()) > 0.1
    assert (gradient != 0).float().mean() > 0.9
    assert float(task.distillation(teacher, teacher, 2.0)) == pytest.approx(0, abs=1e-5)


def test_targets_in_their_own_units_weigh_the_same() -> None:
    rows, targets = random(50, 3), 1000 + 200 * random(50, 1, seed=1)
    data = TensorDataset(rows, targets)
    scaled, plain = (regression(data, data, (3,), standardise=s) for s in (True, False))
    mean, deviation = (x.float() for x in plain.scale)  # type: ignore[attr-defined]
    outputs, teacher = random(8, 1), random(8, 1, seed=2)
    expected = float(scaled.distillation(outputs, teacher, 1.0))
    own_units = (x * deviation + mean for x in (outputs, teacher))
    assert float(plain.distillation(*own_units, 1.0)) == pytest.approx(expected, rel=1e-3)
