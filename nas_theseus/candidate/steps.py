"""The named steps that make a candidate; each yields its points and multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

import torch
from torch import nn

from nas_theseus.candidate.candidate import Candidate, Converted
from nas_theseus.conversion.alignment import Alignment, StageResult, align
from nas_theseus.conversion.finetune import train
from nas_theseus.conversion.hybrid import Hybrid
from nas_theseus.conversion.similarity import similarity
from nas_theseus.conversion.target import assemble, recalibrate_if_better
from nas_theseus.conversion.training_loss import TrainingLoss
from nas_theseus.errors import ConversionError
from nas_theseus.library.block_conversion import keep_block, load_into
from nas_theseus.library.block_key import BlockKeys
from nas_theseus.library.record import Facts
from nas_theseus.library.store import Library
from nas_theseus.tasks.score import score
from nas_theseus.values.events import Progress, Reached
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.outcomes import CurvePoint
from nas_theseus.values.rung import rungs_of

Event: TypeAlias = "Progress | Reached | Converted"


class Step(Protocol):
    """One step of a candidate.

    Attributes:
        name: its name in events and failures.
    """

    name: ClassVar[str]

    def run(self, candidate: Candidate) -> Iterator[Event]:
        """Change the candidate's target, and yield what was done.

        Raises:
            ConversionError: the candidate diverged.
        """


@dataclass(frozen=True)
class Assemble:
    """Build the target of new blocks and copies of the guide's parts."""

    name: ClassVar[str] = "assemble"

    def run(self, candidate: Candidate) -> Iterator[Event]:
        target = assemble(
            candidate.space,
            candidate.architecture,
            candidate.seed,
            fresh=candidate.recipe.untouched_by_guide,
            # Weights from the library replace what a block would choose by the activations.
            activations=None if candidate.recipe.takes_blocks else candidate.activations,
        )
        candidate.target = target.to(candidate.device)
        yield Progress(self.name)


@dataclass(frozen=True)
class TakeBlocks:
    """Put the library's blocks into the target; missing ones are converted into the library first.

    Attributes:
        keys: makes the keys of blocks, as the candidate's recipe aligns them.
        final: whether no later stage reports the similarity of the blocks.
    """

    library: Library
    keys: BlockKeys
    final: bool
    name: ClassVar[str] = "take blocks"

    def run(self, candidate: Candidate) -> Iterator[Event]:
        space, target = candidate.space, candidate.target
        for position, key in enumerate(self.keys.of_blocks(candidate.architecture)):
            if key is None:
                continue
            block = target.blocks[position]
            entry, made = self.library.get(key, block), None
            if entry is None:  # damaged, or removed since it was made
                entry, made = keep_block(
                    space, self.library, key, candidate.activations, candidate.replacing
                )
            load_into(block, entry.state)
            points = _scores(position, block, entry.record.facts)
            # Converting a block is counted for the library, not for this candidate.
            yield Progress(self.name, points if self.final else (), block=made)


def _scores(position: int, block: nn.Module, facts: Facts) -> tuple[CurvePoint, ...]:
    """Points of a library block's record; one without parameters was not aligned or stitched."""
    known = {"contribution_error": facts.contribution_error, "divergence": facts.divergence}
    if any(True for _ in block.parameters()):
        known |= {"similarity": facts.similarity, "stitch_residual": facts.residual}
    return tuple(
        CurvePoint(f"{name}/{position}", 0, value)
        for name, value in known.items()
        if value is not None
    )


@dataclass(frozen=True)
class Align:
    """Run the schedule's stages; train and score the half-converted network after each.

    Attributes:
        steps: largest number of optimiser steps in one stage.
        score_hybrids: score the half-converted networks, as ``hybrid/<metric>``.
    """

    steps: int
    score_hybrids: bool = False
    name: ClassVar[str] = "align"

    def run(self, candidate: Candidate) -> Iterator[Event]:
        recipe = candidate.recipe
        alignment = Alignment(
            candidate.target,
            candidate.activations,
            similarity(recipe.similarity, **recipe.similarity_options.given),
            recipe.model_copy(update={"align_steps": self.steps}),
            torch.Generator().manual_seed(candidate.seed),
            candidate.block_macs,
        )
        for result in align(alignment):
            yield Progress(self.name, result.points, result.macs)
            if recipe.hybrid_epochs or self.score_hybrids:
                yield from self._hybrid(candidate, result)

    def _hybrid(self, candidate: Candidate, result: StageResult) -> Iterator[Event]:
        """Train the half-converted network for `hybrid_epochs`, then score it if wanted."""
        recipe, task = candidate.recipe, candidate.space.task
        number, replaced = result.number, result.stage.replaced
        hybrid = Hybrid(candidate.target, candidate.activations, replaced)
        short = recipe.model_copy(update={"epochs": recipe.hybrid_epochs, "steps": 0})
        seed = derive_seed(candidate.seed, number)
        for epoch in train(hybrid, task, short, seed, candidate.teacher):
            loss = CurvePoint("hybrid_loss", number, epoch.loss)
            yield Progress(self.name, (loss,), candidate.training_macs(epoch, replaced))
        if self.score_hybrids:
            value = score(hybrid, task, "validation")
            point = CurvePoint(f"hybrid/{candidate.space.metric}", number, value)
            yield Progress(self.name, (point,))


@dataclass(frozen=True)
class Recalibrate:
    """Compute batch-norm statistics again, on training inputs, where that lowers the loss."""

    name: ClassVar[str] = "recalibrate"

    def run(self, candidate: Candidate) -> Iterator[Event]:
        recipe, task = candidate.recipe, candidate.space.task
        examples = min(recipe.align_examples, task.size("train"))
        loss = TrainingLoss(candidate.target, task, recipe, candidate.teacher)
        given = candidate.target, task, recipe.align_batch_size, examples
        seen = recalibrate_if_better(*given, loss)
        yield Progress(self.name, macs=candidate.forward_macs(seen))


@dataclass(frozen=True)
class Settle:
    """Train the assembled network as a whole, for a short time and in small batches."""

    name: ClassVar[str] = "settle"

    def run(self, candidate: Candidate) -> Iterator[Event]:
        task, recipe = candidate.space.task, candidate.recipe.settling
        candidate.thaw()
        seed = derive_seed("settle", candidate.seed)
        kept = candidate.kept_parameters
        for epoch in train(candidate.target, task, recipe, seed, candidate.teacher, kept):
            candidate.pieces = epoch.pieces
            yield Progress(self.name, macs=candidate.training_macs(epoch))


@dataclass(frozen=True)
class Finetune:
    """Train the network on the task; it is scored before and after every epoch.

    A budget in steps has slices in place of epochs, and curves count steps (`Recipe.steps`).
    """

    name: ClassVar[str] = "finetune"

    def run(self, candidate: Candidate) -> Iterator[Event]:
        task, recipe = candidate.space.task, candidate.recipe
        candidate.thaw()
        yield Progress(self.name, (self._quality(candidate, 0),))
        yield from self._rungs(candidate, 0)
        seed, kept = candidate.seed, candidate.kept_parameters
        for epoch in train(candidate.target, task, recipe, seed, candidate.teacher, kept):
            candidate.pieces = epoch.pieces
            mark = recipe.mark(epoch.epoch + 1)
            loss = CurvePoint("train_loss", mark, epoch.loss)
            points = (loss, self._quality(candidate, mark))
            yield Progress(self.name, points, candidate.training_macs(epoch))
            yield from self._rungs(candidate, mark)

    def _quality(self, candidate: Candidate, mark: int) -> CurvePoint:
        return CurvePoint(candidate.space.metric, mark, candidate.score())

    def _rungs(self, candidate: Candidate, mark: int) -> Iterator[Reached]:
        """The rung after this number of epochs or steps, if there is one."""
        for rung in rungs_of(candidate.recipe, candidate.space.metric):
            if rung.epoch == mark:
                yield Reached(rung.name, candidate.evaluation())


@dataclass(frozen=True)
class Measure:
    """Evaluate the finished candidate."""

    name: ClassVar[str] = "measure"

    def run(self, candidate: Candidate) -> Iterator[Event]:
        evaluation = candidate.evaluation()
        yield Converted(evaluation, candidate.target.eval().to("cpu"))


def steps_of(
    candidate: Candidate,
    library: Library | None = None,
    keys: BlockKeys | None = None,
    *,
    score_hybrids: bool = False,
) -> list[Step]:
    """The steps of a candidate by its recipe, in order; the guide itself is only measured.

    Args:
        library, keys: where blocks are taken from, and what makes their keys.
        score_hybrids: score the half-converted network after every stage.

    Raises:
        ConversionError: the recipe takes blocks from the library, but there is none.
    """
    recipe = candidate.recipe
    steps: list[Step] = [Assemble()]
    if not candidate.is_guide:
        polishes = bool(recipe.polish_steps or recipe.hybrid_epochs or score_hybrids)
        if recipe.takes_blocks:
            if library is None or keys is None:
                raise ConversionError(
                    "the recipe takes blocks from the library, but there is none; give one, or "
                    "set library=false"
                )
            steps.append(TakeBlocks(library, keys, final=not polishes))
            if polishes:
                steps.append(Align(recipe.polish_steps, score_hybrids))
        else:
            steps.append(Align(recipe.align_steps, score_hybrids))
        # A network that is only grown from the guide has the right statistics already.
        if recipe.recalibrate and not recipe.untouched_by_guide and not candidate.is_grown:
            steps.append(Recalibrate())
        if recipe.settles:
            steps.append(Settle())
        steps.append(Finetune())
    return [*steps, Measure()]
