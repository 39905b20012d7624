"""Anchors of a stitchable network, and whether they belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from nas_theseus.errors import GuideError
from nas_theseus.guide import Guide
from nas_theseus.tasks import Task

# Share of examples that two anchors must agree on more under another order of the classes than
# under their own, before the order is thought to differ (ours).
_CLEARLY = 0.2


@dataclass(frozen=True, eq=False)
class Anchor:
    """A pretrained network of a family, cut into parts, and the task that it was trained for."""

    name: str
    network: Guide
    task: Task


def check_anchors(anchors: Sequence[Anchor]) -> None:
    """Refuse anchors that do not share task and data.

    Raises:
        GuideError: fewer than two anchors, equal names, or another inlet, outputs or data.
    """
    if len(anchors) < 2:
        raise GuideError(f"a stitchable network needs two anchors or more, got {len(anchors)}")
    names = [anchor.name for anchor in anchors]
    if len(set(names)) < len(names) or any(not n or "." in n for n in names):
        raise GuideError(f"anchors need names that differ and hold no dot, got {', '.join(names)}")
    first = anchors[0]
    for anchor in anchors:
        network, task = anchor.network, anchor.task
        sides = network.boundaries[0], network.boundaries[-1]
        if sides != (task.inlet, task.outputs):
            raise GuideError(
                f"anchor {anchor.name!r} maps {sides[0]} to {sides[1]}, its task {task.name!r} is "
                f"{task.inlet} to {task.outputs}; give the task that it was trained for"
            )
        if task is first.task:
            continue
        if (task.inlet, task.outputs) != (first.task.inlet, first.task.outputs):
            raise GuideError(
                f"anchors share one task: {anchor.name!r} is of {task.name!r} "
                f"({task.inlet} to {task.outputs}), {first.name!r} of {first.task.name!r} "
                f"({first.task.inlet} to {first.task.outputs})"
            )
        if task.data_hash() != first.task.data_hash():
            raise GuideError(
                f"anchors share their data: {anchor.name!r} and {first.name!r} have other "
                "examples, another split or another order of classes; train them on one task"
            )


def check_class_order(anchors: Sequence[Anchor], sample: Tensor) -> None:
    """Refuse anchors of which one means another class by the same output.

    Told from their predictions: the permutation of outputs under which an anchor agrees most with
    the first one (ours).

    Args:
        sample: inputs, shape (N, *inlet); a few hundred.

    Raises:
        GuideError: another order of an anchor's outputs fits clearly better; names the classes.
    """
    first, *others = anchors
    if first.network.boundaries[-1].kind != "vector":
        return
    expected = _predictions(first, sample)
    classes = first.network.boundaries[-1].width
    for anchor in others:
        together = torch.zeros(classes, classes)
        given = _predictions(anchor, sample)
        together.index_put_((expected, given), torch.ones(len(sample)), accumulate=True)
        rows, columns = linear_sum_assignment(-together.numpy())
        better = float(together[rows, columns].sum() - together.diagonal().sum()) / len(sample)
        if better > _CLEARLY:
            moved = [f"{a} is {b}" for a, b in zip(rows, columns, strict=True) if a != b]
            raise GuideError(
                f"anchors {first.name!r} and {anchor.name!r} have their classes in another order: "
                f"class {', '.join(moved[:5])} there; reorder the last layer's outputs"
            )


def _predictions(anchor: Anchor, sample: Tensor) -> Tensor:
    was_training = anchor.network.training
    anchor.network.eval()
    with torch.no_grad():
        found = torch.cat([anchor.network(x).argmax(1) for x in torch.split(sample, 256)])
    anchor.network.train(was_training)
    return found.cpu()
