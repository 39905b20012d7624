"""Tasks without labels: the guide's outputs as targets, and the divergence from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from nas_theseus.errors import DataError
from nas_theseus.tasks import (
    Task,
    diabetes,
    digit_masks,
    digits,
    multilabel,
    text_file,
    unlabelled,
)
from nas_theseus.tasks.contract import behaviour_mistakes, declaration_mistakes
from nas_theseus.tasks.metrics.divergence import Divergence
from nas_theseus.tasks.score import score
from tests.unit.tasks.token_files import text


def network(task: Task, seed: int) -> nn.Module:
    """Any map of the task's inputs to its outputs, with dropout."""
    torch.manual_seed(seed)
    if task.inlet.integer:
        vocabulary = task.outputs.shape[1]
        return nn.Sequential(nn.Embedding(vocabulary, 8), nn.Dropout(), nn.Linear(8, vocabulary))
    if len(task.outputs.shape) == 3:
        return nn.Sequential(
            nn.Dropout(), nn.Conv2d(task.inlet.shape[0], task.outputs.shape[0], 3, padding=1)
        )
    count = torch.Size(task.inlet.shape).numel()
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(count, task.outputs.shape[0]))


def tasks(tmp_path: Path) -> dict[str, Task]:
    path = tmp_path / "text.txt"
    path.write_text(text(60), encoding="utf-8")
    return {
        "tokens": text_file(path, context=8),
        "classes": digits(),
        "maps": digit_masks(),
        "labels": multilabel(*2 * [some_labels()], inlet=(1, 4, 4), labels=3),
    }


def some_labels() -> TensorDataset:
    draw = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randn(40, 1, 4, 4, generator=draw),
        (torch.randn(40, 3, generator=draw) > 0).float(),
    )


def by_hand(kind: str, outputs: Tensor, taught: Tensor) -> float:
    """The sum over classes of p (log p - log q), with probabilities in double precision."""
    if kind == "labels":
        p, q = (torch.stack([x.sigmoid(), 1 - x.sigmoid()], -1) for x in (taught, outputs))
    else:
        p, q = (x.softmax(-1 if kind == "tokens" else 1) for x in (taught, outputs))
    total = (p * (p.log() - q.log())).sum()
    positions = p.sum()  # the probabilities of each are 1 together
    return float(total / positions)


@pytest.mark.parametrize("kind", ["tokens", "classes", "maps", "labels"])
def test_the_divergence_is_that_of_the_probabilities(tmp_path: Path, kind: str) -> None:
    base = tasks(tmp_path)[kind]
    guide, other = network(base, 0), network(base, 1)
    task: Task = unlabelled(base, guide)
    assert declaration_mistakes(task) == behaviour_mistakes(task, taught=True) == []
    inputs = torch.cat([batch.inputs for batch in base.batches("validation", 64)])
    guide.eval(), other.eval()
    with torch.no_grad():
        wanted = by_hand(kind, other(inputs).double(), guide(inputs).double())
    guide.train(), other.train()
    assert wanted > 0.01
    assert score(other, task, "validation", batch_size=50) == pytest.approx(wanted, rel=1e-4)
    assert score(guide, task, "validation") == pytest.approx(0, abs=1e-6)
    assert guide.training and other.training
    batch = next(task.batches("validation", 32))
    outputs = other.eval()(batch.inputs)
    loss = task.loss(outputs, batch.targets)
    meter = task.meter()
    meter.update(outputs, batch.targets)
    assert loss.item() == pytest.approx(meter.compute(), rel=1e-4)
    assert loss.requires_grad
    assert not batch.targets.requires_grad
    assert task.data_hash() == base.data_hash()


def test_inputs_are_those_of_the_other_task(tmp_path: Path) -> None:
    base = tasks(tmp_path)["tokens"]
    task = unlabelled(base, network(base, 0))
    assert task.size("test") == base.size("test")
    assert torch.equal(task.sample(3), base.sample(3))
    for one, other in zip(
        task.batches("train", 16, seed=3, limit=40),
        base.batches("train", 16, seed=3, limit=40),
        strict=True,
    ):
        assert torch.equal(one.inputs, other.inputs)


def test_the_guide_may_be_trained_after_the_task_is_made(tmp_path: Path) -> None:
    base = tasks(tmp_path)["tokens"]
    guide = network(base, 0)
    task = unlabelled(base, guide)
    before = next(task.batches("validation", 4)).targets
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.mul_(2)
    assert not torch.allclose(next(task.batches("validation", 4)).targets, before)


def test_large_outputs_are_taken_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    outputs, taught = (torch.randn(3, 7, 11, generator=draw) for _ in range(2))
    meters = [Divergence(), Divergence()]
    meters[0].update(outputs, taught)
    monkeypatch.setattr("nas_theseus.tasks.metrics.divergence._AT_ONCE", 50)
    meters[1].update(outputs, taught)
    assert meters[1].compute() == pytest.approx(meters[0].compute(), rel=1e-6)
    assert len(meters[1]._nats) == 5  # of 21 · 11 logits, at most 50 at once


def test_numbers_have_no_divergence() -> None:
    with pytest.raises(DataError, match="distributions over classes, tokens, maps or labels, but"):
        unlabelled(diabetes(), nn.Linear(10, 1))
