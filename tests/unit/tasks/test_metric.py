"""Metrics by name and of one's own: their values, directions, resets, names and refusals."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from scipy.stats import entropy
from sklearn import metrics as judged
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchmetrics.classification import MulticlassAUROC, MulticlassConfusionMatrix

from nas_theseus.errors import DataError, UnknownNameError
from nas_theseus.tasks import Task, diabetes, digit_masks, digits, multilabel, own_metric
from nas_theseus.tasks.metric import Targets, name_mistake
from nas_theseus.tasks.metrics.agreement import Agreement
from nas_theseus.tasks.metrics.bits_per_byte import BitsPerByte
from nas_theseus.tasks.metrics.divergence import Divergence
from nas_theseus.tasks.metrics.perplexity import Perplexity, summed_nats
from nas_theseus.tasks.score import as_number, score
from nas_theseus.values.registers import METRICS

COUNTS = {"classes": 9, "tokens": 9, "maps": 9, "labels": 4, "numbers": 2, "outputs": 9}
TOKEN_BYTES = torch.tensor([0, 1, 1, 2, 3, 5, 8, 13, 4])
CASES = [(name, kind) for name in METRICS for kind in METRICS[name].kinds]


def targets_of(kind: str) -> Targets:
    return Targets(kind, COUNTS[kind], token_bytes=lambda: TOKEN_BYTES)  # type: ignore[arg-type]


def outputs_and_targets(kind: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    count = COUNTS[kind]
    if kind == "classes":
        return torch.randn(40, count, generator=draw), torch.randint(count, (40,), generator=draw)
    if kind == "tokens":
        logits = torch.randn(6, 10, count, generator=draw)
        return logits, torch.randint(count, (6, 10), generator=draw)
    if kind == "maps":
        logits = torch.randn(5, count, 4, 3, generator=draw)
        return logits, torch.randint(count, (5, 4, 3), generator=draw)
    if kind == "labels":
        probabilities = torch.rand(40, count, generator=draw)
        return probabilities, torch.randint(2, (40, count), generator=draw)
    if kind == "outputs":
        return torch.randn(6, 10, count, generator=draw), torch.randn(6, 10, count, generator=draw)
    targets = 50 + torch.randn(40, count, generator=draw).double()
    return targets + torch.randn(40, count, generator=draw).double(), targets


def by_hand(name: str, kind: str, outputs: Tensor, targets: Tensor) -> float:
    """From scikit-learn's own functions."""
    if kind == "numbers":
        function = {
            "mean_absolute_error": judged.mean_absolute_error,
            "root_mean_squared_error": lambda t, o: math.sqrt(judged.mean_squared_error(t, o)),
            "r2": judged.r2_score,
        }[name]
        return float(function(targets.numpy(), outputs.numpy()))
    if kind == "labels":
        chosen = (outputs > 0.5).long().numpy()
        right = float((chosen == targets.numpy()).mean())
        return right if name == "accuracy" else judged.f1_score(targets, chosen, average="macro")
    if kind == "outputs":
        if name == "agreement":
            first, second = (x.argmax(-1).flatten().numpy() for x in (targets, outputs))
            return float(judged.accuracy_score(first, second))
        p, q = (x.double().softmax(-1).flatten(0, -2).numpy() for x in (targets, outputs))
        return float(entropy(p, q, axis=1).mean())
    logits = outputs.movedim(-1 if kind == "tokens" else 1, -1).flatten(0, -2).double()
    classes = targets.flatten().numpy()
    if name == "bits_per_byte":
        nats = judged.log_loss(
            classes, logits.softmax(-1).numpy(), labels=range(9), normalize=False
        )
        return float(nats / math.log(2) / sum(TOKEN_BYTES[n] for n in classes))
    if name == "perplexity":
        return math.exp(judged.log_loss(classes, logits.softmax(-1).numpy(), labels=range(9)))
    if name == "top5_accuracy":
        return float(judged.top_k_accuracy_score(classes, logits.numpy(), k=5, labels=range(9)))
    chosen = logits.argmax(-1).numpy()
    if name == "accuracy":
        return float(judged.accuracy_score(classes, chosen))
    function = judged.f1_score if name == "f1" else judged.jaccard_score
    return float(function(classes, chosen, average="macro"))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_values_over_batches_are_those_of_the_whole(name: str, kind: str) -> None:
    outputs, targets = outputs_and_targets(kind)
    meter = METRICS[name].make(targets_of(kind))
    for seed in (1, 0):  # what came before a reset does not count
        meter.reset()
        given = outputs_and_targets(kind, seed)
        for part in zip(*(x.split(3) for x in given), strict=True):
            meter.update(*part)
    found = as_number(name, meter.compute())
    assert found == pytest.approx(by_hand(name, kind, outputs, targets), rel=1e-5)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_directions_are_those_that_torchmetrics_gives(name: str, kind: str) -> None:
    meter: Any = METRICS[name].make(targets_of(kind))
    judge = getattr(meter, "inner", meter)
    assert isinstance(
        judge, torchmetrics.Metric | Perplexity | BitsPerByte | Divergence | Agreement
    )
    assert judge.higher_is_better == (METRICS[name].direction == "maximize")


@pytest.mark.parametrize("name", ["accuracy", "f1", "mean_iou"])
def test_ignored_pixels_do_not_count(name: str) -> None:
    outputs, targets = outputs_and_targets("maps")
    targets[:, 0] = 255
    meter = METRICS[name].make(Targets("maps", 9, 255))
    meter.update(outputs, targets)
    expected = by_hand(name, "maps", outputs[:, :, 1:], targets[:, 1:])
    assert as_number(name, meter.compute()) == pytest.approx(expected, rel=1e-5)


def test_perplexity_of_an_unlikely_token_is_finite() -> None:
    logits = torch.zeros(1, 2, 3)
    logits[0, 0, 0] = 200
    meter = METRICS["perplexity"].make(Targets("tokens", 3))
    meter.update(logits, torch.tensor([[1, 1]]))
    assert meter.compute() == pytest.approx(math.exp((200 + math.log(3)) / 2), rel=1e-4)


def test_bits_per_byte_needs_text() -> None:
    with pytest.raises(DataError, match="how many bytes each token stands for; use text_file"):
        METRICS["bits_per_byte"].make(Targets("tokens", 3))
    meter = METRICS["bits_per_byte"].make(targets_of("tokens"))
    meter.update(torch.zeros(1, 2, 9), torch.zeros(1, 2, dtype=torch.int64))
    assert meter.compute() == math.inf


def test_large_vocabularies_are_taken_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, targets = outputs_and_targets("tokens")
    whole = summed_nats(outputs, targets)
    monkeypatch.setattr("nas_theseus.tasks.metrics.perplexity._AT_ONCE", 50)
    assert float(summed_nats(outputs, targets)) == pytest.approx(float(whole), rel=1e-6)


def test_r2_of_targets_far_from_zero_is_exact() -> None:
    targets = 1e5 + torch.linspace(0, 1, 50).double().unsqueeze(1)
    meter = METRICS["r2"].make(Targets("numbers", 1))
    meter.update(targets + 0.1, targets)
    assert as_number("r2", meter.compute()) == pytest.approx(
        judged.r2_score(targets, targets + 0.1), rel=1e-4
    )


def network(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width))


def predictions(net: nn.Module, task: Task) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        found = [(net(b.inputs), b.targets) for b in task.batches("validation", 100)]
    return tuple(torch.cat(side).numpy() for side in zip(*found, strict=True))  # type: ignore[return-value]


def test_a_named_metric_takes_the_place_of_the_default() -> None:
    net, task = network(10), digits(metric="f1")
    outputs, targets = predictions(net, task)
    assert (task.metric, task.direction) == ("f1", "maximize")
    expected = judged.f1_score(targets, outputs.argmax(1), average="macro")
    assert score(net, task, "validation") == pytest.approx(expected, rel=1e-5)


def test_large_outputs_are_scored_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Sized(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            return super().forward(x.flatten(1))

    torch.manual_seed(0)
    net, task = Sized(64, 10), digits()
    whole = score(net, task, "validation")
    assert sizes[0] > 7
    sizes.clear()
    monkeypatch.setattr("nas_theseus.tasks.score._MOST_OUTPUTS", 79)
    assert score(net, task, "validation") == pytest.approx(whole)
    assert max(sizes) == 7


class Brier:
    """A metric of one's own that knows nothing of torchmetrics."""

    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        wanted = torch.nn.functional.one_hot(targets, outputs.shape[1])
        self.total += float((outputs.softmax(1) - wanted).square().sum())
        self.count += len(targets)

    def compute(self) -> float:
        return self.total / self.count


def test_metrics_of_ones_own_are_reset_between_splits() -> None:
    net, task = network(10), digits(metric=Brier())
    assert (task.metric, task.direction) == ("brier", "minimize")
    first = score(net, task, "validation")
    assert score(net, task, "train") != first
    assert score(net, task, "validation") == first
    travelled = pickle.loads(pickle.dumps(task))
    assert score(net, travelled, "validation") == first


def test_a_torchmetrics_object_brings_its_name_and_direction() -> None:
    net, task = network(10), digits(metric=MulticlassAUROC(10))
    assert (task.metric, task.direction) == ("multiclass_auroc", "maximize")
    outputs, targets = predictions(net, task)
    shares = torch.from_numpy(outputs).softmax(1).numpy()
    expected = judged.roc_auc_score(targets, shares, multi_class="ovr")
    assert score(net, task, "validation") == pytest.approx(expected, rel=1e-4)


def test_copies_with_another_metric() -> None:
    own = digits(metric=own_metric(Brier(), "squared", "minimize"))
    assert replace(own, label_smoothing=0.1).metric == "squared"
    named = replace(own, metric="accuracy")
    assert (named.own, named.direction) == (None, "maximize")
    assert replace(named, metric=Brier()).direction == "minimize"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (Brier, "Brier itself, which is not called"),
        (7, r"update\(outputs, targets\), compute\(\) and reset\(\).*, not int"),
        (MulticlassConfusionMatrix(10), r"own_metric\(.*direction='maximize'\)"),
    ],
)
def test_objects_that_cannot_judge_are_refused(metric: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        digits(metric=metric)


def test_a_metric_must_suit_the_targets() -> None:
    with pytest.raises(DataError, match="mean_iou supports maps, but .* are classes; "):
        digits(metric="mean_iou").meter()
    with pytest.raises(DataError, match="use mean_absolute_error or r2 or root_mean_squared_error"):
        diabetes(metric="accuracy").meter()
    data = TensorDataset(torch.zeros(9, 1, 2, 2), torch.zeros(9, 3))
    with pytest.raises(DataError, match="perplexity supports tokens"):
        multilabel(data, data, (1, 2, 2), 3, metric="perplexity").meter()
    with pytest.raises(UnknownNameError, match="unknown metric 'acuracy'; use accuracy"):
        _ = digit_masks(metric="acuracy").direction
    with pytest.raises(DataError, match="with 5 classes it is always 1"):
        METRICS["top5_accuracy"].make(Targets("classes", 5))


@pytest.mark.parametrize("name", ["acc@5", "mean iou", "a/b", "", "größe", 3])
def test_names_that_records_cannot_take(name: object) -> None:
    assert "can only have letters, digits, '_' and '.'" in str(name_mistake(name))


def test_results_that_are_not_one_number() -> None:
    assert as_number("x", torch.tensor([[0.5]])) == as_number("x", np.float32(0.5)) == 0.5
    for wrong in (torch.zeros(3), np.zeros(3), "good", None, {"x": 1.0}, True):
        with pytest.raises(DataError, match=r"metric 'x' returns .*one number"):
            as_number("x", wrong)
