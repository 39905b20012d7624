"""The schedules of Network of Theseus as values over one stage loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas_theseus.blocks.base import last_map
from nas_theseus.convert.activations import GuideActivations
from nas_theseus.convert.similarity import Similarity, check_features
from nas_theseus.convert.stitching import LeastSquares, fold_after, rows
from nas_theseus.convert.target import Target
from nas_theseus.errors import ConversionError
from nas_theseus.settings import Order, Recipe, Schedule
from nas_theseus.values import CurvePoint, derive_seed


@dataclass(frozen=True)
class Stage:
    """One stage of alignment over positions of the target.

    Attributes:
        start: the chain begins here, fed by the guide's activation at this block's inlet.
        stop: the chain ends before this position.
        trained: positions whose parameters move.
        aligned: positions whose outlets are compared with the guide's; the loss is their mean.
        stitched: the position that is brought into the guide's basis afterwards.
    """

    start: int
    stop: int
    trained: tuple[int, ...]
    aligned: tuple[int, ...]
    stitched: int


def stages(schedule: Schedule, order: Order, replaced: Sequence[int]) -> list[Stage]:
    """The stages of a schedule.

    Args:
        schedule: progressive (the replaced prefix stays trainable), sequential (earlier
            replacements frozen), independent (each alone), joint (all at once); naive and scratch
            have no stage.
        order: forward (input to output) or reverse.
        replaced: positions of the target that are not kept and have parameters, ascending.

    Source: Network of Theseus, arXiv:2512.04198, figures 1, 2 and 4. That the whole prefix stays
    trainable in `progressive` is our reading. In reverse order a stage's chain runs from the
    newest block to the last one replaced, fed by the guide; a single frozen follower expects the
    guide's basis, so the newest block is stitched when it alone trains, the chain's exit when all
    do (ours).
    """
    if not replaced or schedule in ("naive", "scratch"):
        return []
    first, last = replaced[0], replaced[-1]
    if schedule == "joint":
        return [Stage(first, last + 1, tuple(replaced), tuple(replaced), last)]
    newest_first = list(replaced) if order == "forward" else list(reversed(replaced))
    found = []
    for index, newest in enumerate(newest_first):
        done = tuple(sorted(newest_first[: index + 1]))
        if schedule == "independent":
            found.append(Stage(newest, newest + 1, (newest,), (newest,), newest))
        elif schedule == "progressive":
            found.append(Stage(done[0], done[-1] + 1, done, done, done[-1]))
        else:  # sequential
            aligned = (newest,) if order == "forward" else done
            found.append(Stage(done[0], done[-1] + 1, (newest,), aligned, newest))
    return found


def align(
    target: Target,
    guide: GuideActivations,
    similarity: Similarity,
    recipe: Recipe,
    generator: torch.Generator,
) -> Iterator[CurvePoint]:
    """Run a schedule's stages on a target, in place; yields similarity per part and stage.

    Args:
        target: assembled from new blocks and copies of kept parts, on the guide's device.
        guide: the guide's activations for a bounded sample.
        generator: fixes the batches; on the CPU.

    Yields:
        ``similarity/<position>`` at step = stage, for every aligned position, and
        ``stitch_residual/<position>``.

    Raises:
        ConversionError: an alignment loss is not finite, or features cannot be compared.
    """
    for number, stage in enumerate(stages(recipe.schedule, recipe.order, target.replaced)):
        # Dropout and the like draw from torch's global generator, whatever ran here before.
        torch.manual_seed(derive_seed("stage", generator.initial_seed(), number))
        yield from _run_stage(number, stage, target, guide, similarity, recipe, generator)


def _run_stage(
    number: int,
    stage: Stage,
    target: Target,
    guide: GuideActivations,
    similarity: Similarity,
    recipe: Recipe,
    generator: torch.Generator,
) -> Iterator[CurvePoint]:
    batches = fixed_batches(guide.count, recipe.align_batch_size, generator)
    inputs = guide.at(target.inlet_boundary(stage.start))
    goals = {p: guide.at(target.outlet_boundary(p)) for p in stage.aligned}
    prepared = {(p, b): similarity.prepare(goals[p][batches[b]])
                for p in stage.aligned for b in range(len(batches))}  # fmt: skip
    target.freeze_all_but(stage.trained)
    parameters = target.parameters_of(stage.trained)
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.align_learning_rate, weight_decay=recipe.weight_decay
    )
    steps = recipe.align_steps
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for step in range(steps):
        chosen = step % len(batches)
        losses = {}
        cuda = inputs.device.type == "cuda"
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=cuda):
            for position, features in _chain(target, stage, inputs[batches[chosen]]):
                if position in goals:
                    losses[position] = similarity.loss(features, prepared[position, chosen])
        loss = torch.stack(list(losses.values())).mean()
        if not torch.isfinite(loss):
            raise ConversionError(
                f"stage {number} (blocks {stage.trained}) diverged at step {step}: the alignment "
                "loss is not finite; lower align_learning_rate"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
        optimizer.step()
        schedule.step()
    target.freeze_all_but(())
    with torch.no_grad():
        for position, features in _chain(target, stage, inputs[batches[0]]):
            if position in goals:
                check_features(features, goals[position][batches[0]], part=target.label(position))
                score = 1 - similarity.loss(features, prepared[position, 0])
                yield CurvePoint(f"similarity/{position}", number, float(score))
    residual = stitch(target, stage, guide, batches)
    if residual is not None:
        yield CurvePoint(f"stitch_residual/{stage.stitched}", number, residual)


def stitch(
    target: Target, stage: Stage, guide: GuideActivations, batches: Sequence[Tensor]
) -> float | None:
    """Bring one block's output into the guide's basis, folded into its own last linear map.

    The block's output is its last map's output plus, at most, a skip that is in the guide's basis
    already; so the map is fitted to what the skip leaves over.

    Returns:
        Share of the guide's variance that the block leaves unexplained; None for a block without
        a last linear map.
    """
    block = target.blocks[stage.stitched]
    last = last_map(block)
    if last is None:
        return None
    goal = guide.at(target.outlet_boundary(stage.stitched))
    goal_width = rows(goal[:1]).shape[1]
    inputs = guide.at(target.inlet_boundary(stage.start))
    caught: list[Tensor] = []
    count = 0
    sums = torch.zeros(2, goal_width, dtype=torch.float64, device=goal.device)
    squares = torch.zeros(2, dtype=torch.float64, device=goal.device)
    hook = last.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    fit = LeastSquares()
    try:
        with torch.no_grad():
            for batch in batches:
                caught.clear()
                for position, features in _chain(target, stage, inputs[batch]):
                    if position == stage.stitched:
                        mapped, guided = rows(caught[-1]), rows(goal[batch])
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
            last.bias = torch.nn.Parameter(bias.to(weight.device))
        else:
            last.bias.copy_(bias)
    # The fit's residual is a share of what the skip leaves over; told as a share of the guide's.
    left_over, guided_spread = squares - (sums**2).sum(1) / count
    return linear_map.residual * float(left_over / guided_spread)


def fixed_batches(count: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """A random partition into batches that stay the same, so that the guide's side is reused."""
    order = torch.randperm(count, generator=generator)
    full = list(torch.split(order, size))
    return full[:-1] if len(full) > 1 and len(full[-1]) < size else full


def _chain(target: Target, stage: Stage, features: Tensor) -> Iterator[tuple[int, Tensor]]:
    for position in range(stage.start, stage.stop):
        features = target.blocks[position](features)
        yield position, features
