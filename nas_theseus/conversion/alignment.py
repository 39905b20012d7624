"""The loop that runs the stages of every schedule: train, measure, stitch."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.fitting import chain_outputs, stitch, unexplained
from nas_theseus.conversion.inheritance import inherit
from nas_theseus.conversion.similarity import Similarity, check_features
from nas_theseus.conversion.stage import Stage, runs_from, stages
from nas_theseus.conversion.target import Target, batch_norms, gathering_statistics
from nas_theseus.conversion.training_macs import training_macs
from nas_theseus.errors import ConversionError, ShapeError
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.outcomes import CurvePoint
from nas_theseus.values.recipe import Recipe

# Examples of the guide's activations used to rank its hidden units by importance.
INHERITED_EXAMPLES = 64
# Number of inputs of a unit up to which alignment uses the full learning rate.
WIDE = 256
# Training that ends with more than WORSE times its first loss has failed. There are up to ATTEMPTS,
# each with a quarter of the learning rate of the one before.
WORSE, ATTEMPTS = 1.05, 3


@dataclass(frozen=True)
class Alignment:
    """Objects shared by all stages of one alignment.

    Attributes:
        target: assembled from new blocks and copies of kept parts, on the guide's device.
        guide: the guide's activations for a bounded sample.
        similarity: the similarity to maximise.
        generator: generator that determines the batches; on the CPU.
        block_macs: multiply-adds of each block's forward pass for one example, by position.
    """

    target: Target
    guide: GuideActivations
    similarity: Similarity
    recipe: Recipe
    generator: torch.Generator
    block_macs: Sequence[int]


@dataclass(frozen=True)
class StageResult:
    """Result of one stage of a schedule.

    Attributes:
        number: number of the stage, from 0.
        points: ``similarity/<position>`` at step `number` for every aligned position,
            ``align_steps``, the optimiser steps, and ``stitch_residual/<position>``; empty for a
            stage that aligns nothing.
        macs: multiply-adds of training, batch-norm statistics, and the sample's passes through
            frozen blocks and for stitches. The guide's activations, the least squares of stitches,
            and similarities are not counted.
    """

    number: int
    stage: Stage
    points: tuple[CurvePoint, ...] = ()
    macs: int = 0


def align(alignment: Alignment) -> Iterator[StageResult]:
    """Run a schedule's stages on a target, in place.

    Yields:
        The result of each stage; the target may be trained further before the next one begins.

    Raises:
        ConversionError: an alignment loss is not finite, or features cannot be compared.
    """
    target, guide, recipe = alignment.target, alignment.guide, alignment.recipe
    before: tuple[int, ...] = ()
    ran: Stage | None = None
    inputs = torch.empty(0)
    for number, stage in enumerate(stages(recipe.schedule, recipe.order, target.replaced)):
        # Dropout and the like use torch's global generator, so make it independent of earlier work.
        torch.manual_seed(derive_seed("stage", alignment.generator.initial_seed(), number))
        result = StageResult(number, stage)
        if stage.aligned:
            # Frozen blocks before the first trained block run once for all steps.
            first, begin = stage.trained[0], runs_from(stage, ran)
            if begin == stage.start:
                width = target.boundaries[begin].width
                inputs = guide.at(target.inlet_boundary(begin), width)
            inputs = _through(target.blocks[begin:first], inputs)
            ran = None if recipe.hybrid_epochs else stage
            run = StageRun(alignment, number, replace(stage, start=first), inputs)
            run.count_pass(begin, first)
            if alignment.similarity.aligned_basis:
                run.begin_with(sorted(set(stage.trained) - set(before)))
            points = run.points()
            result = StageResult(number, stage, points, run.macs)
        yield result
        before = stage.replaced


class StageRun:
    """Runs one stage: trains the alignment of its chain, measures it, and stitches.

    Args:
        number: number of the stage.
        stage: stage whose chain begins at its first trained block.
        inputs: inputs of that block, shape (N, *inlet).

    Attributes:
        macs: multiply-adds so far.
    """

    def __init__(self, alignment: Alignment, number: int, stage: Stage, inputs: Tensor) -> None:
        self._number, self._stage, self._target = number, stage, alignment.target
        self._guide, self._block_macs = alignment.guide, alignment.block_macs
        self.macs = 0
        self._similarity, self._recipe = alignment.similarity, alignment.recipe
        size = self._recipe.align_batch_size
        self._batches = fixed_batches(self._guide.count, size, alignment.generator)
        # Copied once instead of at every step.
        self._inputs = [inputs[batch] for batch in self._batches]
        # Basis-free similarities compare all of the guide's features, others its basis here.
        in_target = self._similarity.aligned_basis
        self._goals = {p: self._goal(p, in_target) for p in stage.aligned}
        self._prepared = {
            p: [self._prepare(p, goal) for goal in goals] for p, goals in self._goals.items()
        }

    def _goal(self, position: int, in_target: bool) -> list[Tensor]:
        """The guide's activations after a block, batch by batch."""
        width = self._target.boundaries[position + 1].width if in_target else None
        goal = self._guide.at(self._target.outlet_boundary(position), width)
        return [goal[batch] for batch in self._batches]

    def _prepare(self, position: int, goal: Tensor) -> Any:
        measure, label = self._similarity, self._target.label(position)
        if len(goal) < measure.minimum_examples:
            enough = self._guide.count >= measure.minimum_examples
            raise ConversionError(
                f"block {label}: similarity {measure.name!r} needs {measure.minimum_examples} "
                f"examples, but a batch has {len(goal)} of {self._guide.count}: raise "
                + ("align_batch_size" if enough else "align_examples, or add training data to it")
            )
        try:
            return measure.prepare(goal)
        except ShapeError as error:
            raise ConversionError(f"block {label}: {error}") from error

    def begin_with(self, positions: Iterable[int]) -> None:
        """Start new blocks from the least-squares solution of their last map.

        Ours: random hidden layers and a fitted last map explain half of the variance at most
        boundaries before any training step. Blocks that align the guide's basis are trained from
        there. Each block is fitted on the outputs of the blocks before it, so that it compensates
        their errors. Blocks over tokens inherit the guide's work at each token (`inheritance`).
        """
        self._target.freeze_all_but(())
        for position in positions:
            self._inherit(position)
            stage = replace(self._stage, stop=position + 1, stitched=position)
            self._gather_statistics(stage, position)
            stitch(self._target, stage, self._inputs, self._goal(position, in_target=True))
            self.count_pass(stage.start, stage.stop)

    def count_pass(self, start: int, stop: int) -> None:
        """Add the multiply-adds of the whole sample's pass through the blocks [start, stop)."""
        self.macs += self._guide.count * sum(self._block_macs[start:stop])

    def _inherit(self, position: int) -> None:
        """Inherit from the guide, if both boundaries have its widths and thus a shared basis."""
        start = self._target.inlet_boundary(position)
        inputs = self._guide.at(start)[:INHERITED_EXAMPLES]
        if inputs.ndim == 3 and inputs.shape[2] == self._target.boundaries[position].width:
            parts = self._guide.guide.parts[start : self._target.outlet_boundary(position)]
            inherit(self._target.blocks[position], parts, inputs)

    def _gather_statistics(self, stage: Stage, *positions: int) -> None:
        """Compute batch-norm statistics: few steps give poor ones, and stitches depend on them."""
        blocks = nn.ModuleList(self._target.blocks[position] for position in positions)
        if not batch_norms(blocks):
            return
        with gathering_statistics(blocks), torch.no_grad():
            for inputs in self._inputs:
                for _ in chain_outputs(self._target, stage, inputs):
                    pass
        self.count_pass(stage.start, stage.stop)

    def points(self) -> tuple[CurvePoint, ...]:
        """Train, measure similarities, and stitch; returns the measurements."""
        number, stage, target = self._number, self._stage, self._target
        steps = self.train()
        target.freeze_all_but(())
        self._gather_statistics(stage, *stage.trained)
        points = []
        with torch.no_grad():
            for position, features in chain_outputs(target, stage, self._inputs[0]):
                if position in self._goals:
                    goal = self._goals[position][0]
                    check_features(features, goal, part=target.label(position))
                    loss = self._similarity.loss(features, self._prepared[position][0])
                    points.append(CurvePoint(f"similarity/{position}", number, 1 - float(loss)))
        points.append(CurvePoint("align_steps", number, steps))
        if stage.stitched is not None:
            goals = self._goal(stage.stitched, in_target=True)
            residual = stitch(target, stage, self._inputs, goals)
            if residual is None:
                residual = unexplained(target, stage, self._inputs, goals)
            self.count_pass(stage.start, stage.stop)
            points.append(CurvePoint(f"stitch_residual/{stage.stitched}", number, residual))
        return tuple(points)

    def train(self) -> int:
        """Train the stage's blocks; returns the number of optimiser steps.

        Ours: Adam's steps have the same size for any layer width, so a few steps can make the units
        of a wide layer dead. Training that ends with a higher loss than it began with is repeated
        from its start with a quarter of the learning rate. If no attempt succeeds, the blocks stay
        untrained.

        Raises:
            ConversionError: the loss is not finite at any of the learning rates.
        """
        target, trained = self._target, self._stage.trained
        target.freeze_all_but(trained)
        blocks = nn.ModuleList(target.blocks[position] for position in trained)
        began, steps = copy.deepcopy(blocks.state_dict()), 0
        for attempt in range(ATTEMPTS):
            rate = self._recipe.align_learning_rate / 4**attempt
            first, taken = self._train_at(rate)
            steps += taken
            self._count_steps(taken)
            with torch.no_grad():
                last = self._loss(0) if taken else first
            if bool(last <= first * WORSE):
                return steps
            blocks.load_state_dict(began)
        if not torch.isfinite(last):
            raise ConversionError(
                f"stage {self._number} (blocks {trained}) diverged: the alignment loss is not "
                f"finite, even at a learning rate of {rate:g}; lower align_learning_rate"
            )
        return steps

    def _count_steps(self, steps: int) -> None:
        """Add the multiply-adds of `steps` optimiser steps."""
        chain = {p: self._block_macs[p] for p in range(self._stage.start, self._stage.stop)}
        batch = min(self._recipe.align_batch_size, self._guide.count)
        self.macs += steps * batch * training_macs(chain, self._stage.trained)

    def _train_at(self, learning_rate: float) -> tuple[Tensor, int]:
        """Train; returns the first batch's loss before any step, and the steps until the end."""
        recipe = self._recipe
        parameters = self._target.parameters_of(self._stage.trained)
        optimizer = torch.optim.AdamW(
            [{"params": [p], "lr": learning_rate * step_share(p)} for p in parameters],
            weight_decay=recipe.weight_decay,
        )
        cap = recipe.align_steps
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, cap))
        passes = Plateau(recipe.plateau, len(self._batches))
        first = torch.tensor(0.0)
        for step in range(cap):
            loss = self._loss(step % len(self._batches))
            if step == 0:
                first = loss.detach()
            if not torch.isfinite(loss):
                return first, step
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
            optimizer.step()
            schedule.step()
            if passes.ended(loss.detach()):
                return first, step + 1
        return first, cap

    def _loss(self, chosen: int) -> Tensor:
        inputs = self._inputs[chosen]
        losses = []
        cuda = inputs.device.type == "cuda"
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=cuda):
            for position, features in chain_outputs(self._target, self._stage, inputs):
                if position in self._goals:
                    prepared = self._prepared[position][chosen]
                    losses.append(self._similarity.loss(features, prepared))
        return torch.stack(losses).mean()


def step_share(parameter: Tensor) -> float:
    """Share of the learning rate for a parameter: less if a unit has more inputs than `WIDE`.

    Adam moves every weight equally far, so one step moves a unit further the more inputs it has:
    with the images' 1,024 pixels, fifty steps left all units of a token mixer dead. The learning
    rate falls with the fan-in as in Yang et al. (Tensor Programs V, arXiv:2203.03466, table 3).
    """
    inputs = parameter[0].numel() if parameter.ndim > 1 else 1
    return min(1.0, WIDE / inputs)


class Plateau:
    """Early stopping when a loss no longer falls (ours; the source stops after fixed steps).

    Args:
        share: share by which a window's mean loss must be below that of the window before to
            continue; 0 never stops.
        batches: number of batches of the sample. A window is one pass through all of them, so that
            equal batches are compared, or as many passes as needed for four steps.
    """

    def __init__(self, share: float, batches: int) -> None:
        self._share, self._window = share, batches * -(-4 // batches)
        self._losses: list[Tensor] = []
        self._before = float("inf")

    def ended(self, loss: Tensor) -> bool:
        """Whether to stop after one more step with this loss."""
        if not self._share:
            return False
        self._losses.append(loss)
        if len(self._losses) < self._window:
            return False
        mean = float(torch.stack(self._losses).mean())
        self._losses.clear()
        flat = mean > self._before * (1 - self._share)
        self._before = mean
        return flat


def fixed_batches(count: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """A fixed random partition into batches, so that the guide's side of each can be reused."""
    order = torch.randperm(count, generator=generator)
    full = list(torch.split(order, size))
    return full[:-1] if len(full) > 1 and len(full[-1]) < size else full


def _through(blocks: Iterable[nn.Module], features: Tensor) -> Tensor:
    """Outputs of frozen blocks for the whole sample."""
    chain = nn.Sequential(*blocks).eval()
    if not len(chain):
        return features
    with torch.no_grad():
        return torch.cat([chain(chunk) for chunk in torch.split(features, 256)])
