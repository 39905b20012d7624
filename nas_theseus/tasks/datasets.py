"""Data sets of (input, target) pairs, such as torchvision's, read into memory and split."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nas_theseus.errors import DataError
from nas_theseus.tasks.pictures import upright_rgb
from nas_theseus.tasks.preprocessing import Preprocessing
from nas_theseus.tasks.splits import held_out
from nas_theseus.tasks.target_readers import ReadTargets, as_tensor
from nas_theseus.tasks.task import Splits, shuffled
from nas_theseus.tasks.tensors import Statistics, TensorExamples, channel_statistics

_MOST_KEPT_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class Datasets:
    """A training and a test data set that fit in memory; validation is taken from the first.

    Attributes:
        name: what messages call the data.
        train: gives (input, target) for 0 … len-1.
        test: the test split, in the same form.
        shape: of one input: (C, H, W) for images, (D,) for rows of numbers, and so on.
        targets: turns the targets of a whole data set into one tensor.
        validation_share: share of `train` that is kept for validation.
        seed: fixes the split.
        output_bytes: size of a prediction for one example, which decides whether predictions
            for all of them are kept.
        preprocessing: resizes and crops PIL images, and standardises them and bytes. Default: PIL
            images have the shape already, and the training split says how to standardise.

    Raises:
        DataError: a share outside (0, 1).
    """

    name: str
    train: Any
    test: Any
    shape: tuple[int, ...]
    targets: ReadTargets
    validation_share: float = 0.1
    seed: int = 0
    output_bytes: int = 0
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise DataError(f"validation_share is between 0 and 1, not {self.validation_share}")

    def load(self) -> Splits:
        """Read both data sets and split them.

        Raises:
            DataError: a data set is empty, or an input or target does not fit.
        """
        inputs, targets = self._read("train", self.train)
        test_inputs, test_targets = self._read("test", self.test)
        # A test set sorted by class would make every limited look at it one-sided.
        order = shuffled(len(test_targets), self.seed)
        kept = self.output_bytes * len(targets) <= _MOST_KEPT_BYTES
        test = TensorExamples(test_inputs[order], test_targets[order], None, kept)
        held = max(1, round(len(targets) * self.validation_share))
        statistics = None if self.preprocessing is None else self.preprocessing.statistics
        training = (inputs, targets)
        return split_training(self.name, training, test, held, None, self.seed, statistics)

    def _read(self, part: str, data: Any) -> tuple[Tensor, Tensor]:
        inputs: list[Tensor] = []
        targets: list[Any] = []
        for index in range(len(data)):
            given, target = data[index]
            inputs.append(self._input(f"{part} input {index}", given))
            targets.append(target)
        if not inputs:
            raise DataError(f"{self.name}: the {part} data set is empty")
        kinds = {tensor.dtype for tensor in inputs}
        if len(kinds) > 1:
            raise DataError(
                f"{self.name}: some {part} inputs are bytes and some are floats; give all in one "
                "form"
            )
        return torch.stack(inputs), self.targets(f"{self.name}, {part}", targets)

    def _input(self, which: str, given: Any) -> Tensor:
        try:
            if self.preprocessing is not None and isinstance(given, Image.Image):
                tensor = self.preprocessing.pixels(upright_rgb(given))
            else:
                tensor = as_tensor(given, upright=True)
        except DataError as error:
            raise DataError(f"{self.name}: {which} {error}") from error
        if tuple(tensor.shape) != self.shape:
            axes = " (C, H, W)" if len(self.shape) == 3 else ""
            raise DataError(
                f"{self.name}: {which} has shape {tuple(tensor.shape)}, expected "
                f"{self.shape}{axes}; give the data set a transform or correct inlet="
            )
        if tensor.dtype == torch.uint8 and len(self.shape) == 3:
            return tensor
        tensor = tensor.float()
        if not torch.isfinite(tensor).all():
            raise DataError(
                f"{self.name}: {which} has NaN or infinite values; remove it or fill them in"
            )
        return tensor


def split_training(
    name: str,
    training: tuple[Tensor, Tensor],
    test: TensorExamples,
    validation_examples: int,
    train_examples: int | None,
    seed: int,
    statistics: Statistics | None = None,
) -> Splits:
    """Validation first, training from the rest, so that the first never depends on the second.

    Args:
        training: inputs and targets that validation is taken from; images of bytes are
            standardised per channel.
        train_examples: how many of the rest are trained on; None for all.
        statistics: how images of bytes are standardised. Default: by the training split.

    Raises:
        DataError: there are too few examples.
    """
    inputs, targets = training
    available = len(targets) - validation_examples
    if available < max(1, train_examples or 1):
        raise DataError(
            f"{name}: {len(targets):,} training examples do not give {validation_examples:,} for "
            f"validation and {train_examples or 1:,} to train on; ask for fewer"
        )
    if targets.dim() == 1:  # one class an example
        held, rest = held_out(targets, validation_examples, seed)
    else:
        order = shuffled(len(targets), seed)
        held, rest = order[:validation_examples], order[validation_examples:]
    # Over all of the rest, so that validation inputs are the same for every train_examples.
    bytes_only = inputs.dtype == torch.uint8
    if not bytes_only:
        statistics = None
    elif statistics is None:
        statistics = channel_statistics(inputs[rest])
    chosen = rest[:train_examples]
    return Splits(
        TensorExamples(inputs[chosen], targets[chosen], statistics, test.indexed),
        TensorExamples(inputs[held], targets[held], statistics, test.indexed),
        replace(test, statistics=statistics),
    )


def by_class(inputs: Tensor, targets: Tensor, classes: Tensor, seed: int) -> Splits:
    """Split 60/20/20 so that each split has the same shares of classes (N,)."""
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

    everything = np.arange(len(classes))
    rest, test = train_test_split(everything, test_size=0.2, stratify=classes, random_state=seed)
    train, validation = train_test_split(
        rest, test_size=0.25, stratify=classes[rest], random_state=seed
    )
    statistics = channel_statistics(inputs[train])
    parts = (TensorExamples(inputs[p], targets[p], statistics) for p in (train, validation, test))
    return Splits(*parts)


def output_bytes(shape: tuple[int, ...]) -> int:
    """Bytes of one prediction in float32."""
    return 4 * math.prod(shape)
