"""Which training examples are held out for validation, fairly for every class."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from nas_theseus.errors import DataError
from nas_theseus.tasks.task import shuffled

_MOST_LISTED = 5


def held_out(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of validation and training examples, at random but fair.

    Where the random choice leaves a class out of training, or one with two examples or more out
    of validation, examples change places. A class with one example is in training.

    Args:
        labels: class of each example, (N,), int64.
        count: how many are held out, below N.
        seed: fixes the choice.

    Returns:
        Validation (count,) and training (N - count,), both in a random order.
    """
    order = shuffled(len(labels), seed)
    classes = int(labels.max()) + 1
    held, rest = (labels[part] for part in (order[:count], order[count:]))
    counts = torch.stack([torch.bincount(part, minlength=classes) for part in (held, rest)])
    # Training first: what it gets back may leave room for another class in validation.
    for one in range(classes):
        if counts[0, one] and not counts[1, one]:
            _swap(order, labels, count, counts, (one, _spare(counts, 1)))
    for one in range(classes):
        if counts[1, one] > 1 and not counts[0, one]:
            _swap(order, labels, count, counts, (_spare(counts, 0), one))
    return order[:count], order[count:]


def _spare(counts: Tensor, side: int) -> int | None:
    """The class with the most examples on a side, if it has two there."""
    greatest = int(counts[side].argmax())
    return greatest if counts[side, greatest] > 1 else None


def _swap(
    order: Tensor,
    labels: Tensor,
    count: int,
    counts: Tensor,
    classes: tuple[int | None, int | None],
) -> None:
    """Let the last held-out example of one class and the first other one of another change places.

    Nothing happens where there is none to spare.
    """
    from_held, from_rest = classes
    if from_held is None or from_rest is None:
        return
    first = int((labels[order[:count]] == from_held).nonzero()[-1])
    second = count + int((labels[order[count:]] == from_rest).nonzero()[0])
    order[[first, second]] = order[[second, first]]
    counts[:, from_held] += torch.tensor([-1, 1])
    counts[:, from_rest] += torch.tensor([1, -1])


def report_classes(name: str, classes: Sequence[str], train: Tensor, validation: Tensor) -> None:
    """Refuse a single class, and warn of classes that a split lacks.

    Args:
        name: what messages call the data.
        classes: names of the classes.
        train, validation: class of each example, (N,), int64.

    Raises:
        DataError: all training examples are of one class.
    """
    in_train, in_validation = (
        torch.bincount(labels, minlength=len(classes)) for labels in (train, validation)
    )
    present = in_train.nonzero().flatten().tolist()
    if len(present) < 2:
        raise DataError(
            f"{name}: all {len(train):,} training examples are of class {classes[present[0]]!r}; "
            "classification needs two classes or more"
        )
    for where, lacking in (("training", in_train == 0), ("validation", in_validation == 0)):
        numbers = lacking.nonzero().flatten().tolist()
        if numbers:
            said = [
                f"{classes[n]!r} ({int(in_train[n])} in training, {int(in_validation[n])} in "
                "validation)"
                for n in numbers[:_MOST_LISTED]
            ]
            more = len(numbers) - len(said)
            said += [f"{more} more"] if more else []
            warnings.warn(
                f"{name}: {len(numbers)} of {len(classes)} classes have no {where} example: "
                f"{', '.join(said)}; give more examples of them, or a greater share for validation",
                stacklevel=2,
            )
