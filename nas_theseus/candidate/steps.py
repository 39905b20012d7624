"""The named steps that make a candidate: each yields what it did, and its multiply-adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch

from nas_theseus.candidate.candidate import Candidate
from nas_theseus.conversion import alignment
from nas_theseus.conversion.finetune import train
from nas_theseus.conversion.hybrid import Hybrid
from nas_theseus.conversion.similarity import similarity
from nas_theseus.conversion.stage import Stage
from nas_theseus.conversion.target import recalibrate as recalibrate_statistics
from nas_theseus.errors import ConversionError
from nas_theseus.estimate.rungs import rungs_of
from nas_theseus.library.block_conversion import load_into
from nas_theseus.tasks.score import score
from nas_theseus.values.events import Progress, Reached
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.outcomes import CurvePoint

Event: TypeAlias = "Progress | Reached"


@dataclass(frozen=True)
class Step:
    """One step of a candidate.

    Attributes:
        name: as events and failures call it.
        run: changes the candidate's target; yields what it did.
    """

    name: str
    run: Callable[[Candidate], Iterator[Event]]


def steps_of(candidate: Candidate) -> tuple[Step, ...]:
    """The steps that a candidate takes, by its recipe; none for the guide itself."""
    if candidate.is_guide:
        return ()
    recipe = candidate.recipe
    aligns = polishes(candidate) or not recipe.takes_blocks
    # Grown from the guide alone, a network has its statistics.
    fresh, grown = recipe.untouched_by_guide, all(candidate.target.preserving)
    steps = (
        (TAKE_BLOCKS, recipe.takes_blocks),
        (ALIGN, aligns),
        (RECALIBRATE, recipe.recalibrate and not fresh and not grown),
        (SETTLE, True),
        (FINETUNE, True),
    )
    return tuple(step for step, wanted in steps if wanted)


def polishes(candidate: Candidate) -> bool:
    """Whether blocks of the library are aligned once more, together."""
    recipe = candidate.recipe
    return bool(recipe.polish_steps or recipe.hybrid_epochs or candidate.order.score_hybrids)


def _take_blocks(candidate: Candidate) -> Iterator[Event]:
    """Put the library's blocks into the target; those that are missing are converted into it."""
    library, workshop, target = candidate.order.library, candidate.workshop, candidate.target
    if library is None:
        raise ConversionError(
            "the recipe takes blocks from the library, and there is none; give one, or set "
            "library=false"
        )
    keys = workshop.keys(candidate.recipe).of_blocks(target.architecture)
    for position, key in enumerate(keys):
        if key is None:
            continue
        block = target.blocks[position]
        entry, made = library.get(key, block), None
        if entry is None:  # damaged, or removed since it was made
            entry, made = workshop.keep_block(key, library)
        load_into(block, entry.state)
        facts = entry.record.facts
        # Stages that follow report their own.
        points = (
            ()
            if polishes(candidate)
            else (
                CurvePoint(f"similarity/{position}", 0, facts.similarity),
                CurvePoint(f"stitch_residual/{position}", 0, facts.residual),
            )
        )
        yield Progress(TAKE_BLOCKS.name, points, block=made)


def _align(candidate: Candidate) -> Iterator[Event]:
    """Run the schedule's stages."""
    recipe, order, workshop = candidate.recipe, candidate.order, candidate.workshop
    steps = recipe.polish_steps if recipe.takes_blocks else recipe.align_steps
    blocks = workshop.costs.of_blocks(order.architecture)

    def hybrids(number: int, stage: Stage) -> Iterator[Progress]:
        return _train_hybrid(candidate, number, stage)

    yield from alignment.align(
        alignment.Alignment(
            candidate.target,
            workshop.activations,
            similarity(recipe.similarity, **recipe.similarity_options.given),
            recipe.model_copy(update={"align_steps": steps}),
            torch.Generator().manual_seed(order.seed),
            [cost.macs for cost in blocks],
        ),
        hybrids,
    )


def _train_hybrid(candidate: Candidate, number: int, stage: Stage) -> Iterator[Progress]:
    """Train, then score, the half-converted network behind a stage, where that is wanted."""
    recipe, order, task = candidate.recipe, candidate.order, candidate.space.task
    if not (recipe.hybrid_epochs or order.score_hybrids):
        return
    hybrid = Hybrid(candidate.target, candidate.workshop.activations, stage.replaced)
    short = recipe.model_copy(update={"epochs": recipe.hybrid_epochs})
    for epoch in train(hybrid, task, short, derive_seed(order.seed, number), candidate.teacher):
        points = (CurvePoint("hybrid_loss", number, epoch.loss),)
        yield Progress(ALIGN.name, points, candidate.hybrid_macs(epoch, stage.replaced))
    if order.score_hybrids:
        value = score(hybrid, task, "validation")
        yield Progress(ALIGN.name, (CurvePoint(f"hybrid/{candidate.space.metric}", number, value),))


def _recalibrate(candidate: Candidate) -> Iterator[Event]:
    """Take batch-norm statistics anew."""
    recipe, task = candidate.recipe, candidate.space.task
    examples = min(recipe.align_examples, task.size("train"))
    run = recalibrate_statistics(candidate.target, task, recipe.align_batch_size, examples)
    yield Progress(RECALIBRATE.name, macs=candidate.forward_macs(run))


def _settle(candidate: Candidate) -> Iterator[Event]:
    """Train the assembled network shortly in small batches, then score it."""
    target, order, task = candidate.target, candidate.order, candidate.space.task
    target.thaw()
    seed = derive_seed("settle", order.seed)
    for epoch in train(target, task, candidate.recipe.settling, seed, candidate.teacher):
        candidate.pieces = epoch.pieces
        yield Progress(SETTLE.name, macs=candidate.training_macs(epoch))
    yield Progress(SETTLE.name, (CurvePoint(candidate.space.metric, 0, candidate.score()),))
    yield from _rung(candidate, 0)


def _finetune(candidate: Candidate) -> Iterator[Event]:
    """Train the network on the task, scored after every epoch."""
    target, order, task = candidate.target, candidate.order, candidate.space.task
    for epoch in train(target, task, candidate.recipe, order.seed, candidate.teacher):
        candidate.pieces = epoch.pieces
        number = epoch.epoch + 1
        points = (
            CurvePoint("train_loss", number, epoch.loss),
            CurvePoint(candidate.space.metric, number, candidate.score()),
        )
        yield Progress(FINETUNE.name, points, candidate.training_macs(epoch))
        yield from _rung(candidate, number)


def _rung(candidate: Candidate, epoch: int) -> Iterator[Reached]:
    """The rung behind an epoch, if there is one."""
    for rung in rungs_of(candidate.recipe, candidate.space.metric):
        if rung.epoch == epoch:
            yield Reached(rung.name, candidate.evaluation())


TAKE_BLOCKS = Step("take blocks", _take_blocks)
ALIGN = Step(alignment.ALIGN, _align)
RECALIBRATE = Step("recalibrate", _recalibrate)
SETTLE = Step("settle", _settle)
FINETUNE = Step("finetune", _finetune)
