"""Fit a block's stitch by least squares, and measure the variance it leaves unexplained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from nas_theseus.blocks.family import last_map
from nas_theseus.conversion.folding import fold_after
from nas_theseus.conversion.least_squares import LeastSquares
from nas_theseus.conversion.stage import Stage
from nas_theseus.conversion.stitch_layer import rows
from nas_theseus.conversion.target import Target


def stitch(
    target: Target, stage: Stage, inputs: Sequence[Tensor], goals: Sequence[Tensor]
) -> float | None:
    """Bring one block's output into the guide's basis, by a stitch folded into its last linear map.

    The block's output is its last map's output plus, at most, a skip that is already in the guide's
    basis. The map is therefore fitted to the guide's activations minus the skip.

    Args:
        inputs: inputs of the stage's chain, in batches of shape (N, *boundary).
        goals: the guide's activations after the block, in its width, in the same batches.

    Returns:
        Share of the guide's variance that the block leaves unexplained; None for a block that does
        not end in a linear map.
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
    # Copied, since a block may add its skip in place.
    hook = last.register_forward_hook(
        lambda _module, _inputs, output: caught.append(output.clone())
    )
    fit = LeastSquares()
    try:
        with torch.no_grad():
            for batch, goal in zip(inputs, goals, strict=True):
                caught.clear()
                for reached, features in chain_outputs(target, stage, batch):
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
    # The fit's residual is relative to the remainder without the skip; convert to the guide's.
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
            for reached, features in chain_outputs(target, stage, batch):
                if reached == stage.stitched:
                    guided = rows(goal).double()
                    left = left + (guided - rows(features)).square().sum()
                    spread = spread + (guided - mean).square().sum()
    return float(left / spread)


def relative_to_contribution(
    residual: float, inputs: Sequence[Tensor], goals: Sequence[Tensor]
) -> float | None:
    """A block's squared error relative to what the replaced parts add to their input.

    ‖block(x) - part(x)‖² / ‖part(x) - x‖². On a residual stream a part adds little to what it
    passes on, so errors relative to the whole boundary hide what is lost, most of all if a few
    activations are huge.

    Args:
        residual: share of the guide's variance at the outlet that the block leaves unexplained.
        inputs: the guide's activations before the replaced parts, in batches (N, *boundary).
        goals: the guide's activations after them, in the same batches.

    Returns:
        None if the shapes before and after differ, or nothing is added.

    Source: Bercovich et al. 2024 (Puzzle), arXiv:2411.19146, whose local loss is relative to the
    outputs of attention or MLP alone; the form for a part that includes its skip is ours.
    """
    if inputs[0].shape != goals[0].shape or not inputs[0].is_floating_point():
        return None
    mean = torch.stack([rows(goal).double().sum(0) for goal in goals]).sum(0)
    mean /= sum(len(rows(goal)) for goal in goals)
    spread = added = torch.zeros((), dtype=torch.float64, device=mean.device)
    for features, goal in zip(inputs, goals, strict=True):
        spread = spread + (rows(goal).double() - mean).square().sum()
        added = added + (goal.double() - features.double()).square().sum()
    return residual * float(spread / added) if added > 0 else None


def chain_outputs(target: Target, stage: Stage, features: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Position and output of each block of a stage's chain."""
    for position in range(stage.start, stage.stop):
        features = target.blocks[position](features)
        yield position, features
