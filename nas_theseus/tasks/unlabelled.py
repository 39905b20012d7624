"""Tasks without labels: the targets are the guide's outputs, the metric is nearness to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from nas_theseus.errors import DataError
from nas_theseus.tasks.metric import Meter, NamedMetric, Prepared, Targets
from nas_theseus.tasks.task import Batch, Device, Split, Task
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction
from nas_theseus.values.registers import METRICS

Nearness: TypeAlias = Literal["divergence", "agreement"]

# The guide's outputs for a whole split are kept if they take at most this.
_MOST_BYTES_KEPT = 512 << 20
_AT_ONCE = 256
# Where each kind of outputs has its classes.
_CLASSES_AT = {"classes": 1, "tokens": -1, "maps": 1}


@dataclass(frozen=True, eq=False)
class UnlabelledTask:
    """The inputs of another task with the guide's outputs as targets.

    The loss is that task's `distillation`. The guide runs once for every batch, or once for a
    split whose inputs have positions (`Batch.index`).

    Attributes:
        base: where the inputs come from; its labels are not used.
        guide: gives the targets, with the weights that it has when a batch is made.
        metric: ``divergence``, KL(guide ‖ network) in nats, or ``agreement``, the share where both
            have the greatest logit at one class; means over examples and their tokens, pixels or
            labels. The other one is measured beside it.
    """

    base: Task
    guide: nn.Module
    metric: str = "divergence"
    _kept: dict[tuple[str, str], tuple[object, Tensor]] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def direction(self) -> Direction:
        """Whether more or less of the metric is better."""
        member: NamedMetric = METRICS[self.metric]
        return member.direction

    @property
    def note(self) -> str:
        """What the metric does not say, for results."""
        weights = getattr(self.guide, "weights_from", None)
        where = f", which its weights ({weights}) were not trained on" if weights else ""
        return (
            f"no labels: quality is nearness to the guide on {self.name!r}{where}; accuracy on the "
            "data of the guide's own training was not measured"
        )

    @property
    def name(self) -> str:
        """The other task's."""
        return self.base.name

    @property
    def inlet(self) -> Boundary:
        """The other task's."""
        return self.base.inlet

    @property
    def outputs(self) -> Boundary:
        """The other task's."""
        return self.base.outputs

    def data_hash(self) -> str:
        """The other task's; what depends on the targets depends on the guide's own hash too."""
        return self.base.data_hash()

    def size(self, split: Split) -> int:
        """Number of examples in a split."""
        return self.base.size(split)

    def sample(self, count: int) -> Tensor:
        """The first training inputs."""
        return self.base.sample(count)

    def batches(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int | None = None,
        device: Device = "cpu",
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """The other task's inputs, with the guide's logits for them as targets.

        The guide is moved to `device` if it is elsewhere.
        """
        for one in self.base.batches(split, batch_size, seed=seed, device=device, limit=limit):
            # A short look does not need the outputs for the whole split.
            if one.index is not None and limit is None and self._keeps(split):
                taught = self._of_split(split, torch.device(device))[one.index]
            else:
                taught = self._taught(one.inputs)
            yield Batch(one.inputs, taught, one.index)

    def _keeps(self, split: Split) -> bool:
        numbers = self.size(split) * math.prod(self.outputs.shape)
        return 4 * numbers <= _MOST_BYTES_KEPT

    def _of_split(self, split: Split, device: torch.device) -> Tensor:
        """The guide's outputs for a whole split in its order, computed once for its weights."""
        key = (split, str(device))
        weights = [*self.guide.parameters(), *self.guide.buffers()]
        # Training changes versions, and loading other weights or moving them to a device does too.
        state = tuple((tensor.data_ptr(), tensor._version) for tensor in weights)
        kept_for, found = self._kept.get(key, (None, None))
        if found is None or kept_for != state:
            batches = self.base.batches(split, _AT_ONCE, device=device)
            found = torch.cat([self._taught(batch.inputs) for batch in batches])
            weights = [*self.guide.parameters(), *self.guide.buffers()]
            state = tuple((tensor.data_ptr(), tensor._version) for tensor in weights)
            self._kept[key] = state, found
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Without the guide's outputs, which every process computes itself."""
        return {**vars(self), "_kept": {}}

    @torch.no_grad()
    def _taught(self, inputs: Tensor) -> Tensor:
        training = self.guide.training
        self.guide.to(inputs.device).eval()
        with torch.autocast(
            inputs.device.type, torch.bfloat16, enabled=inputs.device.type == "cuda"
        ):
            taught: Tensor = self.guide(inputs)
        self.guide.train(training)
        return taught.float()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The other task's distillation at temperature 1, a scalar."""
        return self.base.distillation(outputs, targets, 1.0)

    def distillation(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The other task's."""
        return self.base.distillation(outputs, teacher, temperature)

    def meter(self) -> Meter:
        """A new meter of the metric."""
        return self._meter(self.metric)

    def meters_beside(self) -> dict[str, Meter]:
        """New meters of the other measures of nearness, by name."""
        return {name: self._meter(name) for name in get_args(Nearness) if name != self.metric}

    def _meter(self, name: str) -> Meter:
        member: NamedMetric = METRICS[name]
        return Prepared(member.make(Targets("outputs", _kind(self.base).count)), self._last)

    def _last(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Both with their classes last."""
        kind = _kind(self.base).kind
        if kind == "labels":
            # A label's logit against 0 is a softmax over two classes.
            first, second = (
                torch.stack([one, torch.zeros_like(one)], -1) for one in (outputs, targets)
            )
            return first, second
        at = _CLASSES_AT[kind]
        return outputs.movedim(at, -1), targets.movedim(at, -1)


def unlabelled(task: Task, guide: nn.Module, metric: str = "divergence") -> UnlabelledTask:
    """A task that needs no labels: stay near to a guide's outputs on another task's inputs.

    For example ``SearchSpace(guide=guide, task=unlabelled(text_files("plays", …), guide), …)``,
    whose metric is ``val_divergence``; ``val_agreement`` is measured beside it. A guide that is
    trained first needs the labelled task as `guide_task`.

    Args:
        task: gives the inputs.
        guide: maps them to logits of the task's classes, tokens, pixels or labels.
        metric: ``divergence`` or ``agreement``.

    Raises:
        DataError: the task's outputs are no distributions, or there is no such metric.
    """
    _kind(task)
    if metric not in get_args(Nearness):
        raise DataError(
            f"task {task.name!r}: without labels, metric is "
            f"{' or '.join(map(repr, get_args(Nearness)))}, not {metric!r}"
        )
    return UnlabelledTask(task, guide, metric)


def _kind(task: Task) -> Targets:
    found = getattr(task, "targets", None)
    if not isinstance(found, Targets) or found.kind not in (*_CLASSES_AT, "labels"):
        said = found.kind if isinstance(found, Targets) else "unknown"
        raise DataError(
            f"task {task.name!r}: a divergence is one of distributions over "
            f"{', '.join(_CLASSES_AT)} or labels, but its targets are {said}; give a task of those"
        )
    return found
