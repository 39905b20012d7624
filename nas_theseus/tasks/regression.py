"""Regression: predict numbers, from any data sets, or scikit-learn's diabetes data to try it on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Unpack

import numpy as np
import torch
from torch import Tensor

from nas_theseus.errors import DataError, ShapeError
from nas_theseus.tasks.datasets import Datasets
from nas_theseus.tasks.distillation import of_numbers
from nas_theseus.tasks.metric import Measured, OwnMetric, Targets
from nas_theseus.tasks.target_readers import SeveralNumbers
from nas_theseus.tasks.task import Device, Digest, Examples, Splits, SplitTask, shuffled
from nas_theseus.tasks.task_options import SplitOptions
from nas_theseus.tasks.tensors import TensorExamples
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.keywords import completed


class Source(Protocol):
    """Where inputs and targets come from."""

    def load(self) -> Splits:
        """Read them; targets are (N, K), in their own units."""


@dataclass(frozen=True, eq=False)
class NumberTask(Measured, SplitTask):
    """Predict numbers: squared error in units of the targets' spread is minimised.

    A loss of 1 is the error of always answering the mean, whatever the units. R² is measured
    unless another metric is given; metrics are taken in the targets' own units.

    Attributes:
        name: what records call it.
        inlet: shape of one input.
        numbers: how many numbers are predicted.
        source: inputs, and targets (numbers,).
        standardise: the network predicts standardised targets: less the training mean, divided
            by the training deviation (`scale` has both). False predicts the targets themselves,
            for a guide that was trained to.
        metric, own: what is measured; see `Measured`.
    """

    name: str
    inlet: Boundary
    numbers: int
    source: Source
    standardise: bool = True
    metric: str = "r2"
    own: OwnMetric | None = None

    @property
    def outputs(self) -> Boundary:
        """The numbers, as a vector."""
        return Boundary((self.numbers,))

    @property
    def targets(self) -> Targets:
        """Numbers."""
        return Targets("numbers", self.numbers)

    @cached_property
    def _given(self) -> Splits:
        return self.source.load()

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the training targets, (numbers,) each, float64.

        Raises:
            DataError: a number is the same in all training examples.
        """
        train = self._given.train
        batches = train.select(torch.arange(len(train)), 4096, "cpu")
        targets = torch.cat([found for _, found in batches]).double()
        mean, deviation = targets.mean(0), targets.std(0, correction=0)
        if (deviation == 0).any():
            which = int((deviation == 0).nonzero()[0])
            raise DataError(
                f"task {self.name!r}: number {which} is {float(mean[which]):g} in all training "
                "examples, so there is nothing to predict; leave it out"
            )
        return mean, deviation

    def load(self) -> Splits:
        """Read the data and standardise the targets."""
        mean, deviation = self.scale
        if not self.standardise:
            mean, deviation = torch.zeros_like(mean), torch.ones_like(deviation)
        given = self._given
        return Splits(
            _Scaled(given.train, mean, deviation),
            _Scaled(given.validation, mean, deviation),
            _Scaled(given.test, mean, deviation),
        )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error in units of the spread, of outputs (B, numbers) against targets.

        Raises:
            ShapeError: the outputs are not (B, numbers).
        """
        self._check(outputs, targets)
        return of_numbers(outputs, targets, self._spread(outputs))

    def distillation(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Mean squared difference from the guide's numbers, in units of the spread.

        The temperature softens distributions; numbers have none, so it changes nothing.
        """
        del temperature
        return of_numbers(outputs, teacher, self._spread(outputs))

    def for_metric(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Both in the targets' own units, float64; a single number as (B,).

        Raises:
            ShapeError: the outputs are not (B, numbers).
        """
        self._check(outputs, targets)
        pair = outputs.double(), targets.double()
        if self.standardise:
            mean, deviation = (one.to(outputs.device) for one in self.scale)
            pair = pair[0] * deviation + mean, pair[1] * deviation + mean
        if self.numbers == 1:
            return pair[0].squeeze(1), pair[1].squeeze(1)
        return pair

    def _spread(self, like: Tensor) -> Tensor:
        if self.standardise:
            return torch.ones((), device=like.device)
        return self.scale[1].to(like.device, like.dtype)

    def _check(self, outputs: Tensor, targets: Tensor) -> None:
        if outputs.shape != targets.shape:
            raise ShapeError(
                f"task {self.name!r}: outputs have shape {tuple(outputs.shape)}, expected "
                f"{tuple(targets.shape)} (batch, numbers)"
            )


def regression(
    train: Any,
    test: Any,
    inlet: tuple[int, ...],
    numbers: int = 1,
    standardise: bool = True,
    **options: Unpack[SplitOptions],
) -> NumberTask:
    """Data sets with numbers to predict that fit in memory.

    Args:
        train: gives (input, target) for 0 … len-1. Inputs are as for `from_datasets`, or rows of
            numbers (D,), which are taken as they are. A target is a number, or `numbers` of them.
        test: the test split, in the same form.
        inlet: shape of one input.
        numbers: how many numbers are predicted.
        standardise: see `NumberTask`.
        options: see `SplitOptions`; the name is "numbers" and the metric "r2" by default. Metrics
            are in the targets' own units.

    Raises:
        DataError: a share outside (0, 1); on first use also when inputs or targets do not fit.
    """
    defaults = SplitOptions(validation_share=0.1, seed=0, name="numbers", metric="r2")
    chosen = completed("regression", options, defaults)
    name, share, seed = chosen["name"] or "numbers", chosen["validation_share"], chosen["seed"]
    source = Datasets(name, train, test, inlet, SeveralNumbers(numbers), share, seed)
    return NumberTask(name, Boundary(inlet), numbers, source, standardise, chosen["metric"])


def diabetes(seed: int = 0, metric: Any = "r2") -> NumberTask:
    """scikit-learn's diabetes data, split 60/20/20: how far the disease goes in a year.

    442 patients with ten measurements each, standardised by the training split. For trying things
    out: the data come with scikit-learn. Source: Efron et al. 2004, "Least angle regression".
    """
    return NumberTask("diabetes", Boundary((10,)), 1, _Diabetes(seed), metric=metric)


@dataclass(frozen=True)
class _Diabetes:
    seed: int

    def load(self) -> Splits:
        from sklearn.datasets import load_diabetes  # type: ignore[import-untyped]

        bunch = load_diabetes(scaled=False)
        inputs = torch.from_numpy(bunch.data.astype(np.float64))
        targets = torch.from_numpy(bunch.target.astype(np.float64)).unsqueeze(1)
        order = shuffled(len(targets), self.seed)
        fifth = len(order) // 5
        test, validation, train = order[:fifth], order[fifth : 2 * fifth], order[2 * fifth :]
        mean, deviation = inputs[train].mean(0), inputs[train].std(0, correction=0)
        inputs = ((inputs - mean) / deviation).float()
        return Splits(
            *(
                TensorExamples(inputs[part], targets[part], None)
                for part in (train, validation, test)
            )
        )


@dataclass(frozen=True, eq=False)
class _Scaled:
    """Examples whose targets are standardised, as float32."""

    given: Examples
    mean: Tensor
    deviation: Tensor

    @property
    def indexed(self) -> bool:
        return self.given.indexed

    def __len__(self) -> int:
        return len(self.given)

    def select(
        self, order: Tensor, batch_size: int, device: Device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        mean, deviation = self.mean.to(device), self.deviation.to(device)
        for inputs, targets in self.given.select(order, batch_size, device):
            yield inputs, ((targets - mean) / deviation).float()

    def update(self, digest: Digest) -> None:
        self.given.update(digest)
        digest.update(f"{self.mean.tolist()}{self.deviation.tolist()}".encode())
