"""Train all networks of a stitchable net together, drawing one at random at each step."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.finetune import EpochLoss, train
from nas_theseus.conversion.target import recalibrate
from nas_theseus.conversion.training_checkpoint import Checkpoint
from nas_theseus.guide.chain import device_of
from nas_theseus.stitching.stitchable import StitchableNet
from nas_theseus.tasks import Task
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.recipe import Recipe


@dataclass(frozen=True)
class StitchesTrained:
    """The last event of training a stitchable net.

    Attributes:
        macs: multiply-adds of training steps, the teacher's logits and statistics.
    """

    macs: int


class _Drawn(nn.Module):
    """A stitchable net that selects a random network at every training step."""

    def __init__(self, net: StitchableNet, seed: int) -> None:
        super().__init__()
        self.net = net
        self.macs = 0
        self._random = np.random.RandomState(derive_seed("draw", seed))

    def forward(self, inputs: Tensor) -> Tensor:
        index = int(self._random.randint(len(self.net.configs())))
        self.net.select(index)
        self.macs += 3 * len(inputs) * self.net.configs()[index].cost.macs
        outputs: Tensor = self.net(inputs)
        return outputs

    def get_extra_state(self) -> dict[str, Any]:
        """Which networks come next, for a checkpoint."""
        kind, keys, *position = self._random.get_state(legacy=True)
        return {"macs": self.macs, "drawn": [kind, [int(key) for key in keys], *position]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        kind, keys, *position = state["drawn"]
        self._random.set_state((kind, np.array(keys, dtype=np.uint32), *position))
        self.macs = state["macs"]


def train_stitches(
    net: StitchableNet,
    task: Task,
    recipe: Recipe,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> Iterator[EpochLoss | StitchesTrained]:
    """Train anchors and stitches; each step draws one network or anchor uniformly.

    With ``recipe.distill``, a copy of the largest anchor before training is the teacher (ours). At
    the end, batch-norm statistics are computed again for every network (ours).

    Args:
        checkpoint: saved after every epoch; the training resumes from it where there is one, and
            `StitchesTrained` then leaves out what the teacher computed before. Default: none.

    Yields:
        Each epoch, and `StitchesTrained` last.

    Raises:
        ConversionError: the loss is not finite.

    Source: Pan et al. 2023, SN-Net, section 3, training strategy.
    """
    device = device_of(net)
    largest = copy.deepcopy(net.anchor(net.names[-1]))
    teacher = GuideActivations(largest, task.sample(2), device) if recipe.distill > 0 else None
    drawn = _Drawn(net, seed)
    net.requires_grad_(True)
    taught = 0
    for epoch in train(drawn, task, recipe, seed, teacher, checkpoint=checkpoint):
        taught += epoch.taught
        yield epoch
    net.eval()
    if teacher is not None:
        cached = 0 if taught else task.size("train")
        whole = next(c.cost.macs for c in net.configs() if str(c) == net.names[-1])
        drawn.macs += (taught + cached) * whole
    examples = min(recipe.align_examples, task.size("train"))
    yield StitchesTrained(drawn.macs + calibrate(net, task, examples))


def calibrate(net: StitchableNet, task: Task, examples: int, batch_size: int = 256) -> int:
    """Compute batch-norm statistics again for every network of a stitchable net.

    Returns:
        Multiply-adds of the computation.
    """
    before, macs = net.selected, 0
    for index, config in enumerate(net.configs()):
        net.select(index)
        macs += recalibrate(net, task, batch_size, examples) * config.cost.macs
        with torch.no_grad():
            net.keep_statistics()
    net.select(before)
    return macs
