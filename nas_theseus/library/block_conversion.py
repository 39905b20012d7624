"""Convert one block on its own, with the same result everywhere, and load converted blocks."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nas_theseus.blocks.family import last_map
from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.alignment import Alignment, align
from nas_theseus.conversion.similarity import similarity
from nas_theseus.conversion.target import Target
from nas_theseus.costs import count_macs
from nas_theseus.errors import ConversionError
from nas_theseus.guide.weights import plain_state
from nas_theseus.library.block_key import BlockKey
from nas_theseus.library.record import Facts
from nas_theseus.library.store import Entry, Library
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import BlockOutcome


def convert_block(
    space: SearchSpace, key: BlockKey, activations: GuideActivations
) -> tuple[dict[str, Tensor], Facts]:
    """Align one block with its span between the guide's activations, and stitch it.

    The stage is that of the schedule `independent`. Its seed comes from the key, so the result is
    bit-equal on all machines of one kind with the same number of threads.

    Args:
        key: key of the block in this space (`BlockKeys`).
        activations: activations of the space's guide.

    Returns:
        The block's state dict on the CPU, and how the conversion went.

    Raises:
        ConversionError: alignment diverged, the block has no parameters, or the activations are of
            a different number of examples than the key's recipe says.
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
    if not target.replaced:
        raise ConversionError(f"block {key} has no parameters")
    measure = similarity(recipe.similarity, **recipe.similarity_options.given)
    generator = torch.Generator().manual_seed(key.seed)
    each = [0] * (len(target.blocks) - 1) + [count_macs(target.blocks[-1], key.inlet)]
    alignment = Alignment(target, activations, measure, recipe, generator, each)
    results = list(align(alignment))
    found = {p.metric.partition("/")[0]: p.value for result in results for p in result.points}
    block = target.blocks[-1].to("cpu")
    state = plain_state(block)
    finite = all(t.isfinite().all() for t in state.values() if t.is_floating_point())
    if not finite or not all(map(math.isfinite, found.values())):
        raise ConversionError(
            f"block {key} is not finite after alignment; lower align_learning_rate"
        )
    return state, Facts(
        similarity=found["similarity"],
        residual=found["stitch_residual"],
        steps=int(found["align_steps"]),
        macs=sum(result.macs for result in results),
        seconds=time.perf_counter() - started,
        device=device.type,
    )


def _alone(space: SearchSpace, key: BlockKey, activations: GuideActivations) -> Target:
    """A target whose only block is the key's; the parts before it are empty and never run."""
    family, start = space.families[key.block], key.span.start
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key.seed)
        if family.of_part:
            block = space.build(key.choice, features=activations.at(start))
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
    space: SearchSpace, library: Library, key: BlockKey, activations: GuideActivations
) -> tuple[Entry, BlockOutcome | None]:
    """The library's entry for a key; if there is none, the block is converted and saved first.

    Args:
        key, activations: as for `convert_block`.

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
        state, facts = convert_block(space, key, activations)
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
