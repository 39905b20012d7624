"""Convert one block on its own, with the same result everywhere, and load converted blocks."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nas_theseus.blocks.family import last_map
from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.alignment import Alignment, align
from nas_theseus.conversion.divergence import ReplaceOne
from nas_theseus.conversion.fitting import relative_to_contribution, unexplained
from nas_theseus.conversion.projection import Projection
from nas_theseus.conversion.selection import Selection
from nas_theseus.conversion.similarity import similarity
from nas_theseus.conversion.stage import Stage
from nas_theseus.conversion.target import Target
from nas_theseus.costs import count_macs
from nas_theseus.errors import ConversionError
from nas_theseus.guide.weights import plain_state
from nas_theseus.library.block_key import BlockKey
from nas_theseus.library.record import Facts
from nas_theseus.library.store import Entry, Library
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture, BlockChoice, Boundary, Span
from nas_theseus.values.outcomes import BlockOutcome


def convert_block(
    space: SearchSpace,
    key: BlockKey,
    activations: GuideActivations,
    replacing: ReplaceOne | None = None,
) -> tuple[dict[str, Tensor], Facts]:
    """Align one block with its span between the guide's activations, stitch it, and score it.

    The stage is that of the schedule `independent`. Its seed comes from the key, so the result is
    bit-equal on all machines of one kind with the same number of threads. A block without
    parameters is only scored.

    Args:
        key: key of the block in this space (`BlockKeys`).
        activations: activations of the space's guide.
        replacing: measures the block's divergence. Default: it is not measured.

    Returns:
        The block's state dict on the CPU, and how the conversion went.

    Raises:
        ConversionError: alignment diverged, the block is not finite on validation data, or the
            activations are of a different number of examples than the key's recipe says.
        PairingError: the block cannot stand for its span.
    """
    started = time.perf_counter()
    recipe = key.recipe
    if activations.count != recipe.align_examples:
        raise ConversionError(
            f"block {key}: its key says {recipe.align_examples} alignment examples, but the "
            f"guide's activations are of {activations.count}; pass activations of as many "
            "examples as the recipe's align_examples"
        )
    device = activations.at(0).device
    target = _alone(space, key, activations).to(device)
    block_macs = count_macs(target.blocks[-1], key.inlet)
    found = (_aligned if target.replaced else _unaligned)(target, key, activations, block_macs)
    facts = Facts(
        **found,
        seconds=0.0,
        device=device.type,
        contribution_error=_contribution_error(key, found["residual"], activations),
    )
    block = target.blocks[-1].eval()
    state = plain_state(block.to("cpu"))
    finite = all(t.isfinite().all() for t in state.values() if t.is_floating_point())
    if not finite or not all(map(math.isfinite, (facts.similarity, facts.residual))):
        raise ConversionError(
            f"block {key} is not finite after alignment; lower align_learning_rate"
        )
    if replacing is not None:
        spent = replacing.macs(key.span, block_macs)
        divergence = _divergence(block.to(device), key, activations, replacing)
        facts = replace(
            facts, divergence=divergence, divergence_macs=spent, macs=facts.macs + spent
        )
    return state, replace(facts, seconds=time.perf_counter() - started)


def _aligned(
    target: Target, key: BlockKey, activations: GuideActivations, block_macs: int
) -> dict[str, Any]:
    """Align and stitch the block; similarity, residual, steps and multiply-adds."""
    recipe = key.recipe
    measure = similarity(recipe.similarity, **recipe.similarity_options.given)
    generator = torch.Generator().manual_seed(key.seed)
    each = [0] * (len(target.blocks) - 1) + [block_macs]
    results = list(align(Alignment(target, activations, measure, recipe, generator, each)))
    found = {p.metric.partition("/")[0]: p.value for result in results for p in result.points}
    return {
        "similarity": found["similarity"],
        "residual": found["stitch_residual"],
        "steps": int(found["align_steps"]),
        "macs": sum(result.macs for result in results),
    }


def _unaligned(
    target: Target, key: BlockKey, activations: GuideActivations, block_macs: int
) -> dict[str, Any]:
    """Similarity and residual of a block without parameters, as `_aligned`."""
    recipe, position = key.recipe, len(target.blocks) - 1
    target.freeze_all_but(())
    measure = similarity(recipe.similarity, **recipe.similarity_options.given)
    stage = Stage(position, position + 1, (), (), position, ())
    inputs, goals = _between(key, activations)
    with torch.no_grad():
        features = target.blocks[-1](inputs[0].clone())
        loss = measure.loss(features, measure.prepare(goals[0]))
    return {
        "similarity": 1 - float(loss),
        "residual": unexplained(target, stage, inputs, goals),
        "steps": 0,
        "macs": activations.count * block_macs,
    }


def _between(
    key: BlockKey, activations: GuideActivations
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The guide's activations before and after the block in its widths, in equal batches."""
    size = key.recipe.align_batch_size
    before = activations.at(key.span.start, _width(key.inlet))
    after = activations.at(key.span.stop, _width(key.outlet))
    return torch.split(before, size), torch.split(after, size)


def _contribution_error(
    key: BlockKey, residual: float, activations: GuideActivations
) -> float | None:
    """None where the replaced parts are not on a stream of one shape, in the guide's widths."""
    boundaries = activations.guide.boundaries
    if (key.inlet, key.outlet) != (boundaries[key.span.start], boundaries[key.span.stop]):
        return None  # at other widths, two boundaries have different bases
    return relative_to_contribution(residual, *_between(key, activations))


def _divergence(
    block: nn.Module, key: BlockKey, activations: GuideActivations, replacing: ReplaceOne
) -> float:
    """The block's divergence; between free widths, with the projections it was aligned with.

    Of a block behind channels that were left out, it is what the block adds to what their loss
    costs alone: the block before has been charged with that, and sums count it once.
    """

    def projection(boundary: int, own: Boundary) -> Projection | Selection | None:
        if own == activations.guide.boundaries[boundary]:
            return None
        return activations.projection(boundary, own.width)

    enter, leave = projection(key.span.start, key.inlet), projection(key.span.stop, key.outlet)
    try:
        found = replacing.divergence(block, key.span, enter, leave)
        if isinstance(enter, Selection):
            found = max(0.0, found - replacing.divergence_without(key.span, enter))
        return found
    except ConversionError as error:
        raise ConversionError(f"block {key}: {error}; lower align_learning_rate") from error


def _width(boundary: Boundary) -> int | None:
    return None if boundary.integer else boundary.width


def _alone(space: SearchSpace, key: BlockKey, activations: GuideActivations) -> Target:
    """A target whose only block is the key's; the parts before it are empty and never run."""
    family, start = space.families[key.block], key.span.start
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key.seed)
        if family.of_part:
            block = space.made_of_parts.build(
                family,
                key.choice,
                (key.inlet, key.outlet),
                features=activations.at(start),
                channels=activations.channels,
            )
        else:
            block = family.build(key.inlet, key.outlet, dict(key.hyperparameters))
    before = [BlockChoice(Span(0, start), "guide")] if start else []
    boundaries = (space.guide.boundaries[0], *([key.inlet] if start else []), key.outlet)
    return Target(
        Architecture((*before, key.choice)),
        [*(nn.Identity() for _ in before), block],
        [*(True for _ in before), False],
        boundaries,
    )


def keep_block(
    space: SearchSpace,
    library: Library,
    key: BlockKey,
    activations: GuideActivations,
    replacing: ReplaceOne | None = None,
) -> tuple[Entry, BlockOutcome | None]:
    """The library's entry for a key; if there is none, the block is converted and saved first.

    Args:
        key, activations, replacing: as for `convert_block`.

    Returns:
        The entry, and the outcome of converting it here. The outcome is None if the entry existed,
        possibly because another process finished converting it first.

    Raises:
        LibraryError: the library cannot be read or written.
        ConversionError, PairingError: as `convert_block`.
    """
    with library.working_on(key):
        entry = library.get(key)
        if entry is not None:
            return entry, None
        state, facts = convert_block(space, key, activations, replacing)
        record = library.put(key, state, facts)
        outcome = BlockOutcome(key.id, str(key), facts.macs, facts.seconds)
        return library.get(key) or Entry(record, state), outcome


def load_into(block: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a converted block's weights into a new block, in place.

    Args:
        state: state dict of the block's library entry.
    """
    last = last_map(block)
    if last is not None and last.bias is None and "last.bias" in state:
        last.bias = nn.Parameter(last.weight.new_zeros(len(last.weight)))
    block.load_state_dict(dict(state))
