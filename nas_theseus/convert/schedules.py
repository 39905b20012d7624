"""The schedules of Network of Theseus as values over one stage loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nas_theseus.blocks.family import last_map
from nas_theseus.convert.activations import GuideActivations
from nas_theseus.convert.folding import fold_after
from nas_theseus.convert.inheritance import inherit
from nas_theseus.convert.least_squares import LeastSquares
from nas_theseus.convert.similarity import Prepared, Similarity, check_features
from nas_theseus.convert.stitching import rows
from nas_theseus.convert.target import Target, batch_norms, gathering_statistics
from nas_theseus.errors import ConversionError, ShapeError
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.outcomes import CurvePoint
from nas_theseus.values.settings import Order, Recipe, Schedule

# Of the guide's activations, to tell which of its hidden units matter.
INHERITED_EXAMPLES = 64
# Inputs of a unit up to which alignment takes the whole learning rate.
WIDE = 256
# Training that leaves the loss above this share of what it began with went wrong; it is tried this
# often, each time with a quarter of the learning rate.
WORSE, ATTEMPTS = 1.05, 3


@dataclass(frozen=True)
class Stage:
    """One stage of alignment over positions of the target.

    Attributes:
        start: the chain begins here, fed by the guide's activation at this block's inlet.
        stop: the chain ends before this position.
        trained: positions whose parameters move.
        aligned: positions whose outlets are compared with the guide's; the loss is their mean.
        stitched: the position that is brought into the guide's basis afterwards; None for none.
        replaced: positions that have been replaced when the stage ends.
    """

    start: int
    stop: int
    trained: tuple[int, ...]
    aligned: tuple[int, ...]
    stitched: int | None
    replaced: tuple[int, ...]


def stages(schedule: Schedule, order: Order, replaced: Sequence[int]) -> list[Stage]:
    """The stages of a schedule.

    Args:
        schedule: progressive (the replaced prefix stays trainable), sequential (earlier
            replacements frozen), independent (each alone), joint (all at once), naive (put in one
            after the other, nothing aligned); scratch and kd have no stage.
        order: forward (input to output) or reverse.
        replaced: positions of the target that are not kept and have parameters, ascending.

    Source: Network of Theseus, arXiv:2512.04198, figures 1, 2 and 4. That the whole prefix stays
    trainable in `progressive` is our reading. In reverse order a stage's chain runs from the
    newest block to the last one replaced, fed by the guide; a single frozen follower expects the
    guide's basis, so the newest block is stitched when it alone trains, the chain's exit when all
    do (ours).
    """
    if not replaced or schedule in ("scratch", "kd"):
        return []
    everything = tuple(replaced)
    if schedule == "joint":
        first, last = everything[0], everything[-1]
        return [Stage(first, last + 1, everything, everything, last, everything)]
    newest_first = everything if order == "forward" else everything[::-1]
    found = []
    for index, newest in enumerate(newest_first):
        done = tuple(sorted(newest_first[: index + 1]))
        alone = (newest,)
        if schedule == "naive":
            found.append(Stage(newest, newest + 1, (), (), None, done))
        elif schedule == "independent":
            found.append(Stage(newest, newest + 1, alone, alone, newest, done))
        elif schedule == "progressive":
            found.append(Stage(done[0], done[-1] + 1, done, done, done[-1], done))
        else:  # sequential
            aligned = alone if order == "forward" else done
            found.append(Stage(done[0], done[-1] + 1, alone, aligned, newest, done))
    return found


def align(
    target: Target,
    guide: GuideActivations,
    similarity: Similarity,
    recipe: Recipe,
    generator: torch.Generator,
    after_stage: Callable[[int, Stage], Iterable[CurvePoint]] = lambda _number, _stage: (),
) -> Iterator[CurvePoint]:
    """Run a schedule's stages on a target, in place; yields similarity per part and stage.

    Args:
        target: assembled from new blocks and copies of kept parts, on the guide's device.
        guide: the guide's activations for a bounded sample.
        generator: fixes the batches; on the CPU.
        after_stage: called when a stage has ended; its points are yielded too.

    Yields:
        ``similarity/<position>`` at step = stage, for every aligned position,
        ``stitch_residual/<position>``, and ``align_steps``, the stage's optimiser steps.

    Raises:
        ConversionError: an alignment loss is not finite, or features cannot be compared.
    """
    before: tuple[int, ...] = ()
    ran: Stage | None = None
    inputs = torch.empty(0)
    for number, stage in enumerate(stages(recipe.schedule, recipe.order, target.replaced)):
        # Dropout and the like draw from torch's global generator, whatever ran here before.
        torch.manual_seed(derive_seed("stage", generator.initial_seed(), number))
        if stage.aligned:
            # What is frozen in front of the first trained block runs once for all steps.
            first, begin = stage.trained[0], runs_from(stage, ran)
            if begin == stage.start:
                width = target.boundaries[begin].width
                inputs = guide.at(target.inlet_boundary(begin), width)
            inputs = _through(target.blocks[begin:first], inputs)
            ran = None if recipe.hybrid_epochs else stage
            chain = replace(stage, start=first)
            run = StageRun(number, chain, target, guide, inputs, similarity, recipe, generator)
            if similarity.aligned_basis:
                run.begin_with(sorted(set(stage.trained) - set(before)))
            yield from run.points()
        yield from after_stage(number, stage)
        before = stage.replaced


def runs_from(stage: Stage, before: Stage | None) -> int:
    """The first block of a stage's chain that has to run anew for the whole sample.

    Args:
        before: the aligned stage before, whose frozen blocks have run; None where they have been
            trained since.
    """
    if before is None or before.start != stage.start or before.trained[0] > stage.trained[0]:
        return stage.start
    return before.trained[0]


class StageRun:
    """One stage: train the alignment of its chain, measure it, stitch."""

    def __init__(
        self,
        number: int,
        stage: Stage,
        target: Target,
        guide: GuideActivations,
        inputs: Tensor,
        similarity: Similarity,
        recipe: Recipe,
        generator: torch.Generator,
    ) -> None:
        self._number, self._stage, self._target, self._guide = number, stage, target, guide
        self._similarity, self._recipe = similarity, recipe
        self._batches = fixed_batches(guide.count, recipe.align_batch_size, generator)
        # Copied once, so that a step copies nothing.
        self._inputs = [inputs[batch] for batch in self._batches]
        # Basis-free similarities see all of the guide's features, the others its basis here.
        self._goals = {p: self._goal(p, similarity.aligned_basis) for p in stage.aligned}
        self._prepared = {
            p: [self._prepare(p, goal) for goal in goals] for p, goals in self._goals.items()
        }

    def _goal(self, position: int, in_target: bool) -> list[Tensor]:
        """The guide's activations behind a block, batch by batch."""
        width = self._target.boundaries[position + 1].width if in_target else None
        goal = self._guide.at(self._target.outlet_boundary(position), width)
        return [goal[batch] for batch in self._batches]

    def _prepare(self, position: int, goal: Tensor) -> Prepared:
        try:
            return self._similarity.prepare(goal)
        except ShapeError as error:
            raise ConversionError(f"block {self._target.label(position)}: {error}") from error

    def begin_with(self, positions: Iterable[int]) -> None:
        """Start new blocks from the least-squares solution of their last map.

        Ours: random hidden layers and a fitted last map explain half of most boundaries before
        any step is taken, and a block that is to speak the guide's basis is trained from there.
        Each is fitted on what the blocks before it give, so that it makes up for their errors.
        Blocks over tokens take over what the guide does at each token (`inheritance`).
        """
        self._target.freeze_all_but(())
        for position in positions:
            self._inherit(position)
            stage = replace(self._stage, stop=position + 1, stitched=position)
            self._gather_statistics(stage, position)
            stitch(self._target, stage, self._inputs, self._goal(position, in_target=True))

    def _inherit(self, position: int) -> None:
        """Between boundaries of the guide's own width, where both speak one basis."""
        start = self._target.inlet_boundary(position)
        inputs = self._guide.at(start)[:INHERITED_EXAMPLES]
        if inputs.ndim == 3 and inputs.shape[2] == self._target.boundaries[position].width:
            parts = self._guide.guide.parts[start : self._target.outlet_boundary(position)]
            inherit(self._target.blocks[position], parts, inputs)

    def _gather_statistics(self, stage: Stage, *positions: int) -> None:
        """Few steps leave batch norms without statistics; a stitch is fitted to what they give."""
        blocks = nn.ModuleList(self._target.blocks[position] for position in positions)
        if not batch_norms(blocks):
            return
        with gathering_statistics(blocks), torch.no_grad():
            for inputs in self._inputs:
                for _ in _chain(self._target, stage, inputs):
                    pass

    def points(self) -> Iterator[CurvePoint]:
        number, stage, target = self._number, self._stage, self._target
        steps = self.train()
        target.freeze_all_but(())
        self._gather_statistics(stage, *stage.trained)
        with torch.no_grad():
            for position, features in _chain(target, stage, self._inputs[0]):
                if position in self._goals:
                    goal = self._goals[position][0]
                    check_features(features, goal, part=target.label(position))
                    loss = self._similarity.loss(features, self._prepared[position][0])
                    yield CurvePoint(f"similarity/{position}", number, 1 - float(loss))
        yield CurvePoint("align_steps", number, steps)
        if stage.stitched is None:
            return
        goals = self._goal(stage.stitched, in_target=True)
        residual = stitch(target, stage, self._inputs, goals)
        if residual is None:
            residual = unexplained(target, stage, self._inputs, goals)
        yield CurvePoint(f"stitch_residual/{stage.stitched}", number, residual)

    def train(self) -> int:
        """Train the stage's blocks; returns the optimiser steps taken.

        Ours: Adam's steps have one size whatever a layer's width, so the units of a wide layer can
        be thrown where they are dead. Training that ends worse than it began starts again from
        there with a quarter of the learning rate; if that never helps, nothing has been trained.

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

    def _train_at(self, learning_rate: float) -> tuple[Tensor, int]:
        """The loss of the first batch before any step, and the steps taken; ends if it diverges."""
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
            for position, features in _chain(self._target, self._stage, inputs):
                if position in self._goals:
                    prepared = self._prepared[position][chosen]
                    losses.append(self._similarity.loss(features, prepared))
        return torch.stack(losses).mean()


def step_share(parameter: Tensor) -> float:
    """Of the learning rate, for a parameter: less, the more inputs a unit has beyond `WIDE`.

    Adam moves every weight equally far, so one step moves a unit the further, the more inputs it
    has: at the images' 1,024 pixels fifty steps left all units of a token mixer dead. That the rate
    is to fall with the fan-in is Yang et al.'s (Tensor Programs V, arXiv:2203.03466, table 3).
    """
    inputs = parameter[0].numel() if parameter.ndim > 1 else 1
    return min(1.0, WIDE / inputs)


class Plateau:
    """Tells when a loss has stopped falling (ours; the source stops after fixed steps).

    Args:
        share: by which the mean loss of a window must lie below that of the one before to go on;
            0 never stops.
        batches: of the sample; a window is a pass through all of them, so that equal batches are
            compared, or as many passes as make four steps.
    """

    def __init__(self, share: float, batches: int) -> None:
        self._share, self._window = share, batches * -(-4 // batches)
        self._losses: list[Tensor] = []
        self._before = float("inf")

    def ended(self, loss: Tensor) -> bool:
        """Takes the loss of one more step."""
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


def stitch(
    target: Target, stage: Stage, inputs: Sequence[Tensor], goals: Sequence[Tensor]
) -> float | None:
    """Bring one block's output into the guide's basis, folded into its own last linear map.

    The block's output is its last map's output plus, at most, a skip that is in the guide's basis
    already; so the map is fitted to what the skip leaves over.

    Args:
        inputs: of the stage's chain, in batches of shape (N, *boundary).
        goals: the guide's activations behind the block, in its width, in the same batches.

    Returns:
        Share of the guide's variance that the block leaves unexplained; None for a block without
        a last linear map.
    """
    position = stage.stitched
    last = None if position is None else last_map(target.blocks[position])
    if position is None or last is None:
        return None
    caught: list[Tensor] = []
    count = 0
    width, device = target.boundaries[position + 1].width, goals[0].device
    sums = torch.zeros(2, width, dtype=torch.float64, device=device)
    squares = torch.zeros(2, dtype=torch.float64, device=device)
    # Copied, as a block may add its skip to it in place.
    hook = last.register_forward_hook(
        lambda _module, _inputs, output: caught.append(output.clone())
    )
    fit = LeastSquares()
    try:
        with torch.no_grad():
            for batch, goal in zip(inputs, goals, strict=True):
                caught.clear()
                for reached, features in _chain(target, stage, batch):
                    if reached == position:
                        mapped, guided = rows(caught[-1]), rows(goal)
                        wanted = guided - (rows(features) - mapped)
                        fit.add(mapped, wanted)
                        both = torch.stack([wanted, guided]).double()
                        count += len(mapped)
                        sums, squares = sums + both.sum(1), squares + both.square().sum((1, 2))
                        break
    finally:
        hook.remove()
    linear_map = fit.solve()
    weight, bias = fold_after(last, linear_map)
    with torch.no_grad():
        last.weight.copy_(weight)
        if last.bias is None:
            last.bias = nn.Parameter(bias.to(weight.device))
        else:
            last.bias.copy_(bias)
    # The fit's residual is a share of what the skip leaves over; told as a share of the guide's.
    left_over, guided_spread = squares - (sums**2).sum(1) / count
    return linear_map.residual * float(left_over / guided_spread)


def unexplained(
    target: Target, stage: Stage, inputs: Sequence[Tensor], goals: Sequence[Tensor]
) -> float:
    """Share of the guide's variance that a block without a stitch leaves unexplained.

    Args:
        inputs, goals: as for `stitch`.
    """
    left = spread = torch.zeros((), dtype=torch.float64, device=goals[0].device)
    mean = torch.cat([rows(goal) for goal in goals]).double().mean(0)
    with torch.no_grad():
        for batch, goal in zip(inputs, goals, strict=True):
            for reached, features in _chain(target, stage, batch):
                if reached == stage.stitched:
                    guided = rows(goal).double()
                    left = left + (guided - rows(features)).square().sum()
                    spread = spread + (guided - mean).square().sum()
    return float(left / spread)


def fixed_batches(count: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """A random partition into batches that stay the same, so that the guide's side is reused."""
    order = torch.randperm(count, generator=generator)
    full = list(torch.split(order, size))
    return full[:-1] if len(full) > 1 and len(full[-1]) < size else full


def _through(blocks: Iterable[nn.Module], features: Tensor) -> Tensor:
    """What frozen blocks make of the whole sample."""
    chain = nn.Sequential(*blocks).eval()
    if not len(chain):
        return features
    with torch.no_grad():
        return torch.cat([chain(chunk) for chunk in torch.split(features, 256)])


def _chain(target: Target, stage: Stage, features: Tensor) -> Iterator[tuple[int, Tensor]]:
    for position in range(stage.start, stage.stop):
        features = target.blocks[position](features)
        yield position, features
