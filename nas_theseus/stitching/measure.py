"""One cell of a comparison: a sender's prefix, a trained stitch, and a receiver's suffix."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.finetune import train
from nas_theseus.conversion.similarity import agreement, similarity
from nas_theseus.conversion.stitch_layer import Stitch, fit_stitch, make_stitch
from nas_theseus.errors import ConversionError
from nas_theseus.guide.chain import Guide
from nas_theseus.stitching.cells import Cell, Endpoint, StitchRecipe
from nas_theseus.tasks import Split, Task
from nas_theseus.tasks.metric import Meter
from nas_theseus.tasks.score import score
from nas_theseus.tasks.task import Splits, SplitTask
from nas_theseus.tasks.tensors import TensorExamples
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction
from nas_theseus.values.ids import derive_seed


class Frozen(nn.Sequential):
    """Frozen parts of a network: no gradients, always in eval mode."""

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        super().__init__(*parts)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Frozen:
        """Stay in eval mode, so that batch norms keep their statistics and dropout is off."""
        return super().train(False)


@dataclass(frozen=True, eq=False)
class Examples:
    """The first inputs of a split with their targets, on one device."""

    inputs: Tensor
    targets: Tensor

    @classmethod
    def of(cls, task: Task, split: Split, count: int, device: torch.device) -> Examples:
        """The first `count` examples of a split, or all if there are fewer."""
        count = min(count, task.size(split))
        batch = next(iter(task.batches(split, count, device=device, limit=count)))
        return cls(batch.inputs, batch.targets)


class Side:
    """A network in eval mode with its activations for the examples, each computed once."""

    def __init__(self, network: Guide, training: Examples, validation: Examples) -> None:
        self.network = network
        self.training, self.validation = (
            GuideActivations(network, e.inputs, e.inputs.device) for e in (training, validation)
        )
        for found, given in ((self.training, training), (self.validation, validation)):
            if found.count < len(given.inputs):
                raise ConversionError(
                    f"activations of {len(given.inputs)} examples do not fit into memory, those of "
                    f"{found.count} would; lower examples or score_examples"
                )


@dataclass(frozen=True, eq=False)
class _SuffixTask(SplitTask):
    """A task whose inputs are a sender's activations, with the loss and metric of another task.

    Attributes:
        represents: whether the loss is the relative squared error of the stitch's outputs, with the
            receiver's activations as training targets.
    """

    base: Task
    inlet: Boundary
    training: Examples
    validation: Examples
    represents: bool = False
    name: str = "stitched"

    @property
    def metric(self) -> str:
        return self.base.metric

    @property
    def direction(self) -> Direction:
        return self.base.direction

    @property
    def outputs(self) -> Boundary:
        return self.base.outputs

    def load(self) -> Splits:
        train, validation = (
            TensorExamples(e.inputs, e.targets, None) for e in (self.training, self.validation)
        )
        return Splits(train, validation, test=validation)  # a stitch is never tested

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if not self.represents:
            return self.base.loss(outputs, targets)
        return F.mse_loss(outputs, targets) / targets.var().clamp_min(1e-12)

    def meter(self) -> Meter:
        return self.base.meter()

    def distillation(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return self.base.distillation(outputs, teacher, temperature)


def fewest_examples(stitch: Stitch) -> int:
    """Number of examples for least squares: at least as many rows as unknowns per output."""
    sender, receiver = (torch.zeros(1, *b.shape) for b in (stitch.inlet, stitch.outlet))
    return max(
        math.ceil((read.shape[1] + 1) / len(read)) for _, read, _ in stitch.pairs(sender, receiver)
    )


def refuse_too_few(stitch: Stitch, examples: int, what: str) -> None:
    """Refuse least squares with more unknowns than equations, which would fit noise.

    Raises:
        ConversionError: there are too few examples; `what` names the stitch in the message.
    """
    needed = fewest_examples(stitch)
    if examples < needed:
        raise ConversionError(
            f"{what}: least squares from {stitch.inlet} to {stitch.outlet} needs at least {needed} "
            f"examples, got {examples}; use more, or start from 'kaiming'"
        )


def measure(
    recipe: StitchRecipe,
    task: Task,
    sides: tuple[Side, Side],
    cell: tuple[Endpoint, Endpoint],
    targets: tuple[Tensor, Tensor],
    seed: int,
) -> Cell:
    """Train and evaluate the stitch of one cell, on activations computed before.

    Args:
        task: task with the loss and metric.
        sides: sender and receiver.
        cell: the two boundaries to stitch.
        targets: targets of the training and the validation examples.
        seed: seed of the stitch's initial weights and the order of examples.

    Raises:
        ShapeError: the two boundaries cannot be stitched.
        ConversionError: there are too few examples, training diverged, or the receiver changed.

    Source: Hernandez, Dangovski, Lu 2023, arXiv:2303.11277, section 1.2.
    """
    started = time.perf_counter()
    (sender, receiver), (source, target) = sides, cell
    inlet, outlet = (
        side.network.boundaries[end.boundary] for side, end in zip(sides, cell, strict=True)
    )
    given, expected = sender.training.at(source.boundary), receiver.training.at(target.boundary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("stitch", source.id, target.id, seed))
        stitch = make_stitch(inlet, outlet).to(given.device)
    residual = None
    if recipe.start == "least-squares":
        refuse_too_few(stitch, len(given), f"cell {source.id} → {target.id}")
        residual = fit_stitch(stitch, given, expected)
    suffix = Frozen(receiver.network.parts[target.boundary :])
    writes = _writes(suffix)
    network = nn.Sequential(stitch, suffix)
    judged = Examples(sender.validation.at(source.boundary), targets[1])
    taught = _SuffixTask(task, inlet, Examples(given, targets[0]), judged)
    start_quality = score(network, taught, "validation")
    learner: nn.Module = network
    if recipe.loss == "representation":
        learner, goal = stitch, Examples(given, expected)
        lesson = _SuffixTask(task, inlet, goal, judged, represents=True)
    else:
        lesson = taught
    for _ in train(learner, lesson, recipe.training, seed):
        pass
    if writes != _writes(suffix):
        raise ConversionError(
            f"cell {source.id} → {target.id}: the receiver changed while the stitch was trained; "
            "does one of its parts write to its own weights or buffers in eval mode?"
        )
    few = slice(recipe.cka_examples)
    return Cell(
        source,
        target,
        score(network, taught, "validation"),
        start_quality,
        float(agreement(similarity("cka"), given[few], expected[few])),
        residual,
        time.perf_counter() - started,
    )


def _writes(module: nn.Module) -> list[int]:
    """Torch's count of in-place writes to each tensor."""
    return [t._version for t in (*module.parameters(), *module.buffers())]
