"""Quality of a network on a split of its task; costs come from `costs`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nas_theseus.errors import DataError
from nas_theseus.tasks.metric import Meter
from nas_theseus.tasks.task import Device, Split, Task

# Numbers in the outputs of one batch: 1 GiB. The logits of a large vocabulary are more than that
# for a few dozen texts.
_MOST_OUTPUTS = 1 << 28


def score(network: nn.Module, task: Task, split: Split, batch_size: int = 512) -> float:
    """The task's metric on one split; see `scores`."""
    return scores(network, task, split, batch_size)[task.metric]


def scores(network: nn.Module, task: Task, split: Split, batch_size: int = 512) -> dict[str, float]:
    """The task's metric on one split and those beside it, in eval mode; each module's is restored.

    Only `nas_theseus.searches.run` reads the test split, once, for the front.

    Args:
        batch_size: the most examples in a batch; fewer where the outputs are large.

    Returns:
        The metric by its name, first, then those of the task's `meters_beside()`, if it has any.

    Raises:
        DataError: the split has no examples, or a metric is not one number.
    """
    device = next(network.parameters()).device
    # Links and batch norms may be in eval mode within a network in training.
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    beside: dict[str, Meter] = getattr(task, "meters_beside", dict)()
    meters = {task.metric: empty_meter(task, device), **beside}
    batch_size = max(1, min(batch_size, _MOST_OUTPUTS // math.prod(task.outputs.shape)))
    examples = 0
    with torch.inference_mode():
        for batch in task.batches(split, batch_size, device=device):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                outputs = network(batch.inputs)
            for meter in meters.values():
                meter.update(outputs.float(), batch.targets)
            examples += len(batch.inputs)
        if not examples:
            raise DataError(
                f"task {task.name!r}: {task.metric} over no examples is undefined; the {split} "
                "split is empty"
            )
        found = {name: as_number(name, meter.compute()) for name, meter in meters.items()}
    for module, training in modes:
        module.training = training
    return found


def empty_meter(task: Task, device: Device) -> Meter:
    """A new meter of the task, moved to a device if it supports that."""
    meter = task.meter()
    move = getattr(meter, "to", None)
    if callable(move):
        meter = move(device)
    meter.reset()
    return meter


def as_number(metric: str, value: Any) -> float:
    """A metric's result as a float.

    Raises:
        DataError: the result is not one number.
    """
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return float(value)
    if isinstance(value, bool) or not hasattr(value, "__float__") or isinstance(value, Tensor):
        given = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:60]
        raise DataError(
            f"metric {metric!r} returns {given}, but must return one number, such as a mean over "
            "classes"
        )
    try:
        return float(value)
    except (TypeError, ValueError) as error:  # a numpy array has __float__ whatever its size
        raise DataError(f"metric {metric!r} returns {value!r:.60}, not one number") from error
