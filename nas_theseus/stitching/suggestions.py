"""Architectures suggested by stitching, from how well blocks match the guide's boundaries."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.similarities.regression import relative_mse
from nas_theseus.conversion.stitch_layer import fit_stitch, make_stitch
from nas_theseus.conversion.target import gathering_statistics
from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.space_graph import additive_space, log_unit
from nas_theseus.guide.chain import device_of
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture, BlockChoice
from nas_theseus.values.ids import derive_seed

_EXAMPLES = 512
_MAX_LABELS = 3_000


def stitch_errors(space: SearchSpace, examples: int = _EXAMPLES) -> dict[BlockChoice, float]:
    """Share of the guide's boundary that each block's outlet leaves unexplained, before training.

    The block, with random weights after the guide's own prefix, is the sender; the guide's boundary
    after the block's span is the receiver; the stitch between them is solved by least squares. Over
    the spans of one block this is a row of the stitching matrix: the boundary that the block's
    outlet matches best has the smallest value. Blocks that preserve the guide part's function have
    no error; blocks without parameters have no stitch.

    Args:
        space: search space whose guide has its prepared weights; the guide is frozen, and blocks
            run on its device.
        examples: number of training inputs; one half fits the stitches, the other evaluates them.

    Returns:
        Share of the variance about the mean example: 0 for a perfect match, 1 and more for none.
        With inlets of several widths, the mean over them.

    Raises:
        ConversionError: the guide's activations or a block's outputs are not finite.

    Source: random → trained of Hernandez, Dangovski, Lu 2023, section 1.5, with the representation
    data set (section 1.2); blocks as senders are ours.
    """
    sample = space.task.sample(min(examples, space.task.size("train")))
    activations = GuideActivations(
        space.guide, sample, device_of(space.guide), selects=space.selects_channels
    )
    found: dict[BlockChoice, list[float]] = {}
    for span, share in space.fitting:
        for choice in space.choices(span, share):
            error = 0.0
            if not space.families[choice.block].preserves:
                error = _unexplained(space, activations, choice, share)
            found.setdefault(choice, []).append(error)
    return {choice: float(np.mean(errors)) for choice, errors in found.items()}


def _unexplained(
    space: SearchSpace, activations: GuideActivations, choice: BlockChoice, share: float
) -> float:
    start, stop = choice.span.start, choice.span.stop
    outlet = space.boundary(stop, choice.width_share)
    given = activations.at(start, space.boundary(start, share).width)
    expected = activations.at(stop, outlet.width)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(derive_seed("suggested", str(choice), start, stop))
        block = space.build(
            choice, share, features=activations.at(start), channels=activations.channels
        )
        block = block.to(given.device).eval()
        with gathering_statistics(block):
            block(given)
        sent, half = block(given), len(given) // 2
        if any(True for _ in block.parameters()):  # no stitch is folded into one without parameters
            stitch = make_stitch(outlet, outlet).to(given.device)
            fit_stitch(stitch, sent[:half], expected[:half])
            sent = stitch(sent)
        return float(relative_mse(sent[half:], expected[half:]))


def suggested(
    space: SearchSpace, costs: CostTable, errors: Mapping[BlockChoice, float], count: int
) -> list[Architecture]:
    """Architectures whose blocks' outlets match the guide's boundaries best, at several costs.

    They are on the exact front of the sum of errors and the first additive cost among the
    objectives (by default MACs), within the space's limits. Their costs are spread evenly over the
    cost's logarithmic range, the middle first. The guide itself is not included.

    Args:
        errors: errors from `stitch_errors`.
        count: number of architectures; fewer are returned if the front has no more.

    Raises:
        LimitError: no architecture keeps the limits.

    Source: ours.
    """
    minimized = [goal.name for goal in space.goals if goal.direction == "minimize"]
    name = next((name for name in minimized if name in space.additive), "macs")
    limits = [limit for limit in space.limits if limit.name in space.additive]
    names = list(dict.fromkeys([name, *(limit.name for limit in limits)]))
    graph = additive_space(space, costs, names, _MAX_LABELS)
    front = graph.front([errors[option.choice] for option in graph.options], limits, [name])
    guide = space.guide_architecture()
    found = {one.architecture: one.costs[name] for one in front if one.architecture != guide}
    unit = log_unit(min(found.values(), default=0), max(found.values(), default=0))
    left = {architecture: np.log1p(cost / unit) for architecture, cost in found.items()}
    if not left:
        return []
    low, high = min(left.values()), max(left.values())
    chosen: list[Architecture] = []
    while left and len(chosen) < count:
        wanted = low + radical_inverse(len(chosen) + 1) * (high - low)
        chosen.append(min(left, key=lambda one: abs(left[one] - wanted)))
        del left[chosen[-1]]
    return chosen


def radical_inverse(number: int) -> float:
    """Binary digits mirrored at the point: 1/2, 1/4, 3/4, 1/8, … (van der Corput 1935)."""
    return int(f"{number:b}"[::-1], 2) / 2 ** number.bit_length() if number else 0.0
