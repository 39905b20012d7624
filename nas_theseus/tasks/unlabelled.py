"""Tasks without labels: the targets are the guide's outputs, the metric is the divergence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from nas_theseus.errors import DataError
from nas_theseus.tasks.metric import Meter, NamedMetric, Prepared, Targets
from nas_theseus.tasks.task import Batch, Device, Split, Task
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction
from nas_theseus.values.registers import METRICS

# Where each kind of outputs has its classes.
_CLASSES_AT = {"classes": 1, "tokens": -1, "maps": 1}


@dataclass(frozen=True, eq=False)
class UnlabelledTask:
    """The inputs of another task with the guide's outputs as targets.

    The loss is that task's `distillation`. The guide runs once for every batch.

    Attributes:
        base: where the inputs come from; its labels are not used.
        guide: gives the targets, with the weights that it has when a batch is made.
        metric: always ``divergence``: KL(guide ‖ network) in nats, the mean over examples and their
            tokens, pixels or labels.
    """

    base: Task
    guide: nn.Module
    metric: ClassVar[str] = "divergence"
    direction: ClassVar[Direction] = "minimize"

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
        found = self.base.batches(split, batch_size, seed=seed, device=device, limit=limit)
        return (Batch(one.inputs, self._taught(one.inputs), one.index) for one in found)

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
        """A new meter of the divergence."""
        member: NamedMetric = METRICS[self.metric]
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


def unlabelled(task: Task, guide: nn.Module) -> UnlabelledTask:
    """A task that needs no labels: stay near to a guide's outputs on another task's inputs.

    For example ``SearchSpace(guide=guide, task=unlabelled(text_files("plays", …), guide), …)``,
    whose metric is ``val_divergence``. A guide that is trained first needs the labelled task as
    `guide_task`.

    Args:
        task: gives the inputs.
        guide: maps them to logits of the task's classes, tokens, pixels or labels.

    Raises:
        DataError: the task's outputs are no distributions.
    """
    _kind(task)
    return UnlabelledTask(task, guide)


def _kind(task: Task) -> Targets:
    found = getattr(task, "targets", None)
    if not isinstance(found, Targets) or found.kind not in (*_CLASSES_AT, "labels"):
        said = found.kind if isinstance(found, Targets) else "unknown"
        raise DataError(
            f"task {task.name!r}: a divergence is one of distributions over "
            f"{', '.join(_CLASSES_AT)} or labels, but its targets are {said}; give a task of those"
        )
    return found
