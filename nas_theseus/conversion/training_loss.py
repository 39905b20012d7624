"""The loss of task training: labels, the guide's logits, and its hidden states."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.links import outlets_of, required_links, run_links
from nas_theseus.tasks import Batch, Task
from nas_theseus.values.recipe import Recipe


class TrainingLoss:
    """The loss of a batch: of its targets and, where there is a teacher, of what the guide makes.

    (1 − distill) · labels + distill · divergence of logits + hidden · (1 − cosine of states).

    Args:
        network: network in training, on its device.
        teacher: the guide. Default: labels alone.

    Raises:
        ConversionError: the recipe needs a chain of blocks, and the network is none.
    """

    def __init__(
        self, network: nn.Module, task: Task, recipe: Recipe, teacher: GuideActivations | None
    ) -> None:
        self._network, self._task, self._recipe, self._teacher = network, task, recipe, teacher
        self._distill = recipe.distill if teacher is not None else 0.0
        self._hidden = recipe.hidden if teacher is not None else 0.0
        needs = {"hidden": self._hidden > 0, "checkpointing": recipe.checkpointing}
        self._links = next((required_links(network, name) for name in needs if needs[name]), [])
        self._outlets = outlets_of(network, self._links)

    def __call__(self, batch: Batch) -> Tensor:
        """Mean loss of the batch, a scalar."""
        kind, precision = batch.inputs.device.type, self._recipe.precision
        halved = precision == "bfloat16" or (precision == "auto" and kind == "cuda")
        with torch.autocast(kind, torch.bfloat16, enabled=halved):
            outputs, states = self._run(batch.inputs)
        outputs, weight = outputs.float(), self._distill
        labelled = self._task.loss(outputs, batch.targets) if weight < 1 else outputs.new_zeros(())
        loss = (1 - weight) * labelled
        if weight or self._hidden:
            with torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16"):
                taught, states_taught = self._taught(batch, states)
            if weight:
                temperature = self._recipe.temperature
                loss = loss + weight * self._task.distillation(outputs, taught, temperature)
            if self._hidden:
                loss = loss + self._hidden * hidden_distance(states, states_taught)
        return loss

    def teaches_anew(self, batch: Batch) -> bool:
        """Whether the guide runs for this batch, whose outputs are not cached."""
        return self._hidden > 0 or (self._distill > 0 and not self._is_cached(batch))

    def _is_cached(self, batch: Batch) -> bool:
        teacher = self._teacher
        return batch.index is not None and teacher is not None and teacher.caches(self._task)

    def _run(self, inputs: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Outputs, and hidden states at the guide's boundaries if they are in the loss."""
        if not self._links:
            return self._network(inputs), {}
        checkpointing = self._recipe.checkpointing
        states, outputs = {}, inputs
        steps = run_links(self._network, self._links, inputs, checkpointing=checkpointing)
        for boundary, outputs in zip(self._outlets, steps, strict=True):
            if self._shared(boundary, outputs):
                states[boundary] = outputs
        return outputs, states

    def _shared(self, boundary: int, features: Tensor) -> bool:
        """Whether features are hidden states of the guide's shape; its outputs are not hidden."""
        if not self._hidden or self._teacher is None:
            return False
        boundaries = self._teacher.guide.boundaries
        return (
            boundary < len(boundaries) - 1
            and tuple(features.shape[1:]) == boundaries[boundary].shape
        )

    def _taught(self, batch: Batch, at: Collection[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """The guide's outputs, and its hidden states at some boundaries, in one pass."""
        teacher = self._teacher
        assert teacher is not None
        if self._hidden:
            last = len(teacher.guide)
            found = teacher.states(batch.inputs, {*at, *([last] if self._distill else [])})
            return found.get(last, batch.inputs), found
        if self._is_cached(batch):
            return teacher.logits(self._task)[batch.index], {}
        return teacher.teach(batch.inputs), {}


def hidden_distance(states: Mapping[int, Tensor], guide: Mapping[int, Tensor]) -> Tensor:
    """One minus cosine of hidden states, mean over positions, then over boundaries, a scalar.

    Args:
        states: features by boundary: (N, C, H, W), (N, T, D) or (N, D); none has no distance.
        guide: the guide's features at these boundaries at least.

    Source: Puzzle, arXiv:2411.19146. Ours: only boundaries of the same shape are compared.
    """
    distances = []
    for boundary, features in states.items():
        channels = 1 if features.ndim == 4 else -1
        alike = functional.cosine_similarity(
            features.float(), guide[boundary].float(), dim=channels
        )
        distances.append(1 - alike.mean())
    return torch.stack(distances).mean() if distances else torch.zeros(())
