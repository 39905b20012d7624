"""The protocol of tasks, and a base for tasks over splits: batches, loss and metric."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from nas_theseus.errors import DataError
from nas_theseus.tasks.metric import Meter
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction
from nas_theseus.values.ids import derive_seed

Split: TypeAlias = Literal["train", "validation", "test"]
Device: TypeAlias = str | torch.device


SPLITS: tuple[Split, ...] = get_args(Split)


class Batch(NamedTuple):
    """Inputs (B, *inlet), targets, and the positions of the inputs in their split.

    Attributes:
        index: positions (B,), to look up results that were computed once for a split, such as a
            teacher's logits. None if there can be no such results: for augmented inputs, which are
            always new, and for data whose results would be too large, such as data read from disk
            batch by batch, and text with logits for every token.
    """

    inputs: Tensor
    targets: Tensor
    index: Tensor | None = None  # type: ignore[assignment] # hides tuple.index, unused here


class Task(Protocol):
    """Data, loss, metric and distillation; `tasks.contract` lists all checks.

    Final metrics are named ``val_<metric>`` and ``test_<metric>``.
    """

    @property
    def name(self) -> str:
        """Name of the task in records and messages."""

    @property
    def metric(self) -> str:
        """Name of the metric, such as ``accuracy``: letters, digits, "_" and "."."""

    @property
    def direction(self) -> Direction:
        """Whether more or less of the metric is better."""

    @property
    def inlet(self) -> Boundary:
        """Shape of one input."""

    @property
    def outputs(self) -> Boundary:
        """Shape of a network's output for one input."""

    def data_hash(self) -> str:
        """Hash of the training and validation data, in their order; the same on every machine."""

    def size(self, split: Split) -> int:
        """Number of examples in a split."""

    def batches(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int | None = None,
        device: Device = "cpu",
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """The examples of a split; see `SplitTask.batches`."""

    def sample(self, count: int) -> Tensor:
        """The first `count` training inputs in the split's order, shape (count, *inlet)."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss that training minimises: a scalar, the mean over the batch."""

    def meter(self) -> Meter:
        """A new meter, which accumulates the metric over the batches of one split."""

    def distillation(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """How far outputs are from the guide's: a scalar of at least 0, the mean over the batch.

        Only recipes with ``distill`` above 0 need it, so a task can omit it. Its values should be
        of similar size as those of `loss`, since the two are added with weights.

        Args:
            outputs: outputs of the network in training, shape (B, *outputs).
            teacher: the guide's outputs for the same inputs, same shape, without gradient.
            temperature: temperature that softens both sides if outputs are logits.
        """


class Digest(Protocol):
    """A hash being computed, such as a `hashlib` object."""

    def update(self, data: bytes, /) -> None:
        """Add more bytes."""


class Examples(Protocol):
    """One split of a data set, in its fixed order."""

    @property
    def indexed(self) -> bool:
        """Whether predictions for the whole split are small enough to keep in memory."""

    def __len__(self) -> int:
        """Number of examples."""

    def select(
        self, order: Tensor, batch_size: int, device: Device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of the examples with indices `order` (N,), in batches, on `device`."""

    def update(self, digest: Digest) -> None:
        """Hash the content, in order."""


@dataclass(frozen=True)
class Splits:
    """The three splits of a data set; no example is in two of them."""

    train: Examples
    validation: Examples
    test: Examples

    def of(self, split: Split) -> Examples:
        """One split by name.

        Raises:
            DataError: no such split.
        """
        if split not in SPLITS:
            raise DataError(f"unknown split {split!r}; available: {', '.join(SPLITS)}")
        examples: Examples = getattr(self, split)
        return examples


def shuffled(size: int, seed: int) -> Tensor:
    """A permutation of 0 … size-1 that depends on the seed alone, on every machine and release.

    NumPy's legacy generator is used because its stream will never change (NEP 19), which neither
    torch's nor NumPy's newer generators promise.
    """
    order = np.random.RandomState(seed & 0xFFFFFFFF).permutation(size)
    return torch.from_numpy(order.astype(np.int64))


class SplitTask(ABC):
    """A task over `Splits`, which are loaded on first use and cached on the instance.

    Loaded data are not pickled with a task: each worker reads the data itself.
    """

    name: str

    @abstractmethod
    def load(self) -> Splits:
        """Read the data; called once.

        Raises:
            DataError: the data are not available or do not fit the task.
        """

    def augment_batch(self, inputs: Tensor, random: np.random.RandomState) -> Tensor:
        """Augment a batch of training inputs; unchanged unless a task overrides this."""
        del random
        return inputs

    @cached_property
    def splits(self) -> Splits:
        """The loaded data.

        Raises:
            DataError: as for `load`, or a split is empty.
        """
        splits = self.load()
        for split in SPLITS:
            if len(splits.of(split)) == 0:
                raise DataError(f"task {self.name!r}: the {split} split is empty; use more data")
        return splits

    @cached_property
    def _hash(self) -> str:
        digest = hashlib.sha256()
        self.splits.train.update(digest)
        self.splits.validation.update(digest)
        return digest.hexdigest()[:16]

    def data_hash(self) -> str:
        """Sixteen hexadecimal digits of the training and validation data in their order.

        The test split is not included: neither converted blocks nor choices depend on it.
        """
        return self._hash

    def size(self, split: Split) -> int:
        """Number of examples in a split.

        Raises:
            DataError: no such split.
        """
        return len(self.splits.of(split))

    def batches(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int | None = None,
        device: Device = "cpu",
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """The examples of a split, a batch at a time.

        Args:
            split: name of the split.
            batch_size: number of examples in a batch.
            seed: None uses the split's own order and keeps a short last batch. A seed shuffles and
                augments, and drops a short last batch of the training split (unless it is the only
                one).
            device: device of the batches; data in memory are moved there once.
            limit: largest number of examples (not batches).

        Raises:
            DataError: no such split, or a batch size or limit below 1.
        """
        examples = self.splits.of(split)
        for name, value in (("batch_size", batch_size), ("limit", limit)):
            if value is not None and value < 1:
                raise DataError(f"task {self.name!r}: {name} must be at least 1, not {value}")
        size = len(examples)
        if seed is None:
            order = torch.arange(size)
        else:
            order = shuffled(size, derive_seed("order", split, seed))
        order = order[:limit]
        training = split == "train" and seed is not None
        if training and len(order) > batch_size:
            order = order[: len(order) // batch_size * batch_size]
        random = np.random.RandomState(derive_seed("augment", seed)) if training else None
        return self._batches(examples, order, batch_size, device, random)

    def _batches(
        self,
        examples: Examples,
        order: Tensor,
        batch_size: int,
        device: Device,
        random: np.random.RandomState | None,
    ) -> Iterator[Batch]:
        pairs = examples.select(order, batch_size, device)
        for number, (inputs, targets) in enumerate(pairs):
            varied = inputs if random is None else self.augment_batch(inputs, random)
            index = None
            if examples.indexed and varied is inputs:
                chosen = order[number * batch_size : (number + 1) * batch_size]
                index = chosen.to(targets.device)
            yield Batch(varied, targets, index)

    def sample(self, count: int) -> Tensor:
        """The first `count` training inputs in the split's order, shape (count, *inlet), on CPU.

        They are not augmented. The order is fixed by the split seed, so a longer sample begins
        with the shorter one.

        Raises:
            DataError: `count` is below 1 or above the training split's size.
        """
        available = self.size("train")
        if not 1 <= count <= available:
            raise DataError(
                f"task {self.name!r}: cannot sample {count} training inputs, it has {available}; "
                f"use 1 to {available}"
            )
        chosen = self.splits.train.select(torch.arange(count), min(count, 1024), "cpu")
        return torch.cat([inputs for inputs, _ in chosen])

    def __getstate__(self) -> dict[str, Any]:
        kind = type(self)
        return {
            name: value
            for name, value in vars(self).items()
            if not isinstance(getattr(kind, name, None), cached_property)
        }


def hash_tensor(digest: Digest, tensor: Tensor) -> None:
    """Hash a tensor's type, shape and bytes."""
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.contiguous().numpy().tobytes())
