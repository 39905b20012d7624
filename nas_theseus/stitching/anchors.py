"""Anchors of a stitchable network, with checks that they share task, data and class order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from torch import Tensor

from nas_theseus.errors import GuideError
from nas_theseus.guide.chain import Guide, device_of
from nas_theseus.tasks import Task

# An anchor's class order is refused if its accuracy would be this much higher in another order
# (ours).
_CLEARLY = 0.2
# With a lower mean probability of its predictions, a network counts as untrained, without a class
# order (ours).
_SURE = 0.6
# Examples per class needed so that noise does not look like another order (ours).
_A_CLASS = 10


@dataclass(frozen=True, eq=False)
class Anchor:
    """A pretrained network of a family, cut into parts, and the task that it was trained for."""

    name: str
    network: Guide
    task: Task


def check_anchors(anchors: Sequence[Anchor]) -> None:
    """Refuse anchors that do not share task and data.

    Raises:
        GuideError: there are fewer than two anchors, names are equal, or inlets, outputs or data
            differ.
    """
    if len(anchors) < 2:
        raise GuideError(f"a stitchable network needs two anchors or more, got {len(anchors)}")
    names = [anchor.name for anchor in anchors]
    if len(set(names)) < len(names) or any(not n or "." in n for n in names):
        raise GuideError(f"anchors need different names without dots, got {', '.join(names)}")
    first = anchors[0]
    for anchor in anchors:
        network, task = anchor.network, anchor.task
        sides = network.boundaries[0], network.boundaries[-1]
        if sides != (task.inlet, task.outputs):
            raise GuideError(
                f"anchor {anchor.name!r} maps {sides[0]} to {sides[1]}, but its task {task.name!r} "
                f"maps {task.inlet} to {task.outputs}; use the task that it was trained for"
            )
        if task is first.task:
            continue
        if (task.inlet, task.outputs) != (first.task.inlet, first.task.outputs):
            raise GuideError(
                f"anchors must share one task: {anchor.name!r} has {task.name!r} "
                f"({task.inlet} to {task.outputs}), but {first.name!r} has {first.task.name!r} "
                f"({first.task.inlet} to {first.task.outputs})"
            )
        if task.data_hash() != first.task.data_hash():
            raise GuideError(
                f"anchors must share their data: {anchor.name!r} and {first.name!r} differ in "
                "examples, split or order of classes; train them on one task"
            )


def check_class_order(anchor: Anchor, inputs: Tensor, targets: Tensor) -> None:
    """Refuse an anchor whose outputs are in another class order than its task's.

    The order differs if the anchor's accuracy is far higher with its outputs in another order
    (ours). An untrained network, whose predictions are all uncertain, is not refused.

    Args:
        inputs: shape (N, *inlet); fewer than ten examples per class are not checked.
        targets: classes of the inputs, shape (N,); targets of other shapes are not checked.

    Raises:
        GuideError: the order differs; the message names the classes.
    """
    outputs = anchor.network.boundaries[-1]
    if outputs.kind != "vector" or targets.ndim != 1 or targets.is_floating_point():
        return
    if len(inputs) < _A_CLASS * outputs.width:
        return
    with torch.no_grad():
        device = device_of(anchor.network)
        logits = torch.cat([anchor.network(x.to(device)).cpu() for x in torch.split(inputs, 256)])
    sure, found = logits.softmax(1).max(1)
    if sure.mean() < _SURE:
        return
    together = torch.zeros(outputs.width, outputs.width)
    together.index_put_((targets.cpu(), found), torch.ones(len(inputs)), accumulate=True)
    rows, columns = linear_sum_assignment(-together.numpy())
    right, reordered = together.trace(), together[rows, columns].sum()
    if reordered - right > _CLEARLY * len(inputs):
        moved = [f"{b} for class {a}" for a, b in zip(rows, columns, strict=True) if a != b]
        raise GuideError(
            f"anchor {anchor.name!r} has its classes in another order than its task: it predicts "
            f"{', '.join(moved[:5])}; reorder the last layer's outputs"
        )
