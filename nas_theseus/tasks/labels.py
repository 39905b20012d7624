"""Multilabel classification: each example can have any number of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from nas_theseus.errors import ShapeError
from nas_theseus.tasks.datasets import Datasets
from nas_theseus.tasks.distillation import of_labels
from nas_theseus.tasks.metric import Measured, OwnMetric, Targets
from nas_theseus.tasks.target_readers import SeveralLabels
from nas_theseus.tasks.task import Splits, SplitTask
from nas_theseus.values.architecture import Boundary


@dataclass(frozen=True, eq=False)
class LabelTask(Measured, SplitTask):
    """Predict the labels of an example: minimises binary cross-entropy; default metric: F1.

    Attributes:
        name: what records call it.
        inlet: shape of one input.
        labels: how many labels there are.
        source: inputs and targets (labels,) of zeros and ones.
        metric, own: what is measured; see `Measured`. Metrics are given probabilities.
    """

    name: str
    inlet: Boundary
    labels: int
    source: Datasets
    metric: str = "f1"
    own: OwnMetric | None = None

    @property
    def outputs(self) -> Boundary:
        """One logit per label."""
        return Boundary((self.labels,))

    @property
    def targets(self) -> Targets:
        """Zeros and ones for each label."""
        return Targets("labels", self.labels)

    def load(self) -> Splits:
        """Read inputs and labels from the source."""
        return self.source.load()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy, mean over labels, of logits (B, labels) against zeros and ones.

        Raises:
            ShapeError: the outputs are not (B, labels).
        """
        self._check(outputs, targets)
        return functional.binary_cross_entropy_with_logits(outputs, targets)

    def distillation(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """KL divergence from the guide's probability of each label; see `of_labels`."""
        return of_labels(outputs, teacher, temperature)

    def for_metric(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities, and targets as whole numbers.

        With logits, torchmetrics would mistake a batch between 0 and 1 for probabilities.

        Raises:
            ShapeError: the outputs are not (B, labels).
        """
        self._check(outputs, targets)
        return outputs.sigmoid(), targets.long()

    def _check(self, outputs: Tensor, targets: Tensor) -> None:
        if outputs.shape != targets.shape:
            raise ShapeError(
                f"task {self.name!r}: outputs have shape {tuple(outputs.shape)}, expected "
                f"{tuple(targets.shape)} (batch, labels)"
            )


def multilabel(
    train: Any,
    test: Any,
    inlet: tuple[int, ...] = (3, 32, 32),
    labels: int = 2,
    validation_share: float = 0.1,
    seed: int = 0,
    name: str = "labels",
    metric: Any = "f1",
) -> LabelTask:
    """Data sets that fit in memory and have several labels an example.

    Args:
        train: gives (input, target) for 0 … len-1. Inputs are as for `from_datasets`, or rows of
            numbers (D,). A target is `labels` zeros and ones.
        test: the test split, in the same form.
        inlet: shape of one input.
        labels: how many labels there are.
        validation_share: share of `train` that is kept for validation.
        seed: fixes the split.
        name: what records call the task.
        metric: a name, or a metric of your own (`own_metric`), which is given probabilities.

    Raises:
        DataError: a share outside (0, 1); on first use also when inputs or targets do not fit.
    """
    source = Datasets(name, train, test, inlet, SeveralLabels(labels), validation_share, seed)
    return LabelTask(name, Boundary(inlet), labels, source, metric)
