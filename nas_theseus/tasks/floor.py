"""What chance reaches on a task: the metric of the best answer that ignores the input.

For classes this is the share of the most frequent one, for text the perplexity of the tokens'
frequencies, for numbers the error of their mean.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nas_theseus.errors import DataError
from nas_theseus.tasks.metric import Measured, Targets
from nas_theseus.tasks.score import as_number, empty_meter
from nas_theseus.tasks.task import Task

# Validation examples from which frequencies and means are taken: the first in a fixed random order.
_EXAMPLES = 4096
# Numbers in the outputs that are measured in all, and in one batch. For a large vocabulary they are
# far more than the targets.
_MOST_OUTPUTS, _AT_ONCE = 1 << 31, 1 << 26


def chance_of(task: Task) -> float | None:
    """The task's metric on the validation split for the best answer that ignores the input.

    A task's own method ``chance()`` takes precedence; it returns a number, or None if chance means
    nothing for the task. The ready tasks with targets have one; their answer is the most frequent
    class, the frequencies of the tokens, or the mean. A task that is neither has none.

    Raises:
        DataError: the task's own ``chance()`` fails, or returns something else.
    """
    own = getattr(task, "chance", None)
    if own is not None:
        return _own(task, own)
    return _of_constant(task) if isinstance(task, Measured) else None


def _own(task: Task, chance: Any) -> float | None:
    if not callable(chance):
        raise DataError(f"task {task.name!r}: chance must be a method, not {chance!r:.60}")
    try:
        value = chance()
    except Exception as error:  # a user's own task may raise anything
        raise DataError(
            f"task {task.name!r}: chance() failed with {type(error).__name__}: {error}. Correct "
            "it, or set SearchSpace(beat_chance=False)"
        ) from error
    if value is None:
        return None
    number = as_number(f"chance() of task {task.name!r}", value)
    if not math.isfinite(number):
        raise DataError(
            f"task {task.name!r}: chance() returns {number}; return a finite number, or None if "
            "there is none"
        )
    return number


def _of_constant(task: Any) -> float | None:
    """The metric of the same output for every input; None if it is no number."""
    answer = _answer(task)
    if answer is None:
        return None
    try:
        found = _measured(task, answer)
    except Exception:
        if task.own is None:
            raise
        return None  # a user's own metric need not be defined for equal outputs
    return found if math.isfinite(found) else None


def _measured(task: Any, answer: Tensor) -> float:
    """The metric of one output for every input."""
    size = math.prod(task.outputs.shape)
    meter = empty_meter(task, "cpu")
    batch_size = max(1, min(512, _AT_ONCE // size))
    examples = max(1, min(_EXAMPLES, _MOST_OUTPUTS // size))
    with torch.inference_mode():
        for batch in task.batches("validation", batch_size, seed=0, limit=examples):
            outputs = answer.expand(len(batch.inputs), *task.outputs.shape)
            meter.update(outputs, batch.targets)
    return as_number(task.metric, meter.compute())


def _answer(task: Any) -> Tensor | None:
    """The best constant output, which broadcasts to the outputs; None for unknown targets."""
    targets: Targets = task.targets
    if targets.kind == "outputs":
        return None
    seen = [
        _summed(batch.targets, targets)
        for batch in task.batches("validation", 512, seed=0, limit=_EXAMPLES)
    ]
    total = torch.stack([sums for sums, _ in seen]).sum(0)
    count = sum(number for _, number in seen)
    if not count:
        return None
    mean = total / count
    if targets.kind == "numbers":
        return mean.float()
    tiny = torch.finfo(torch.float32).tiny
    logits = mean.clamp_min(tiny).log()
    if targets.kind == "labels":
        logits = logits - (1 - mean).clamp_min(tiny).log()
    return logits.float()[:, None, None] if targets.kind == "maps" else logits.float()


def _summed(targets: Tensor, kind: Targets) -> tuple[Tensor, int]:
    """Sums of targets over the examples of a batch, or counts of classes, and of how many."""
    if kind.kind in ("labels", "numbers"):
        return targets.double().sum(0), len(targets)
    flat = targets.flatten()
    known = flat[(flat >= 0) & (flat < kind.count)]
    if kind.ignored is not None:
        known = known[known != kind.ignored]
    return torch.bincount(known, minlength=kind.count).double(), len(known)
