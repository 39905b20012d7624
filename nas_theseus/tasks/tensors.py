"""Examples held in memory, and how images of bytes are standardised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from nas_theseus.errors import DataError
from nas_theseus.tasks.task import Device, Digest, hash_tensor

Statistics: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]


def channel_statistics(images: Tensor) -> Statistics:
    """Mean and standard deviation of each channel of bytes (N, C, H, W).

    Sums of bytes are exact integers, so the results are the same on every machine. The deviation
    of a constant channel is set to 1.
    """
    count = images.numel() // images.shape[1]
    means, deviations = [], []
    for channel in range(images.shape[1]):
        histogram = torch.bincount(images[:, channel].flatten(), minlength=256).tolist()
        first = sum(value * times for value, times in enumerate(histogram))
        second = sum(value * value * times for value, times in enumerate(histogram))
        # In integers: count * second - first², the variance times count².
        variance = (count * second - first * first) / (count * count)
        means.append(first / count)
        deviations.append(variance**0.5 or 1.0)
    return tuple(means), tuple(deviations)


def standardise(images: Tensor, statistics: Statistics) -> Tensor:
    """Images (N, C, H, W) as float32, minus each channel's mean, divided by its deviation."""
    mean, deviation = (
        torch.tensor(values, device=images.device).reshape(-1, 1, 1) for values in statistics
    )
    return images.to(torch.float32).sub_(mean).div_(deviation)


@dataclass(frozen=True, eq=False)
class TensorExamples:
    """Inputs and targets in memory.

    Attributes:
        inputs: (N, *inlet), bytes or float32; bytes are converted batch by batch, which saves three
            quarters of the memory.
        targets: (N, ...), int64 or float32.
        statistics: mean and deviation to standardise images (N, C, H, W); None does not.
        indexed: whether predictions for all examples are small enough to keep in memory.
    """

    inputs: Tensor
    targets: Tensor
    statistics: Statistics | None
    indexed: bool = True
    _moved: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.targets)

    def select(
        self, order: Tensor, batch_size: int, device: Device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches by index; the data are moved to a device once and stay there."""
        key = str(device)
        if key not in self._moved:
            self._moved[key] = (self.inputs.to(device), self.targets.to(device))
        all_inputs, all_targets = self._moved[key]
        order = order.to(device)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            inputs = all_inputs.index_select(0, chosen)
            if self.statistics is not None:
                inputs = standardise(inputs, self.statistics)
            yield inputs, all_targets.index_select(0, chosen)

    def update(self, digest: Digest) -> None:
        """Hash inputs, targets and the statistics of the inputs."""
        hash_tensor(digest, self.inputs)
        hash_tensor(digest, self.targets)
        digest.update(repr(self.statistics).encode())


def check_labels(name: str, labels: Tensor, count: int, classes: int) -> None:
    """Refuse labels that do not fit the images or the classes.

    Args:
        name: name of the data in messages.
        labels: (N,), integers.
        count: number of images.
        classes: labels are 0 … classes-1.

    Raises:
        DataError: the numbers of labels and images differ, or a label is out of range.
    """
    if len(labels) != count:
        raise DataError(
            f"{name}: {count:,} images and {len(labels):,} labels; each image needs exactly one"
        )
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(
            f"{name}: labels run from {int(labels.min())} to {int(labels.max())}, "
            f"{classes} classes allow 0 to {classes - 1}; correct the labels or classes="
        )
