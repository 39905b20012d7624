"""One candidate from architecture to evaluation: convert, assemble, finetune, measure."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from nas_theseus.convert.activations import GuideActivations
from nas_theseus.convert.alignment import align
from nas_theseus.convert.finetune import EpochLoss, train
from nas_theseus.convert.hybrid import Hybrid
from nas_theseus.convert.similarity import similarity
from nas_theseus.convert.stage import Stage, runs_from, stages
from nas_theseus.convert.target import Target, assemble, batch_norms, recalibrate
from nas_theseus.costs import measured_costs
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import ConversionError
from nas_theseus.estimate.rungs import rungs_of
from nas_theseus.library.block_conversion import keep_block, load_into
from nas_theseus.library.block_key import BlockKey, BlockKeys
from nas_theseus.library.store import Entry, Library
from nas_theseus.space.search_space import MEASURED, SearchSpace
from nas_theseus.tasks.score import score
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.ids import canonical_json, derive_seed
from nas_theseus.values.outcomes import BlockOutcome, CurvePoint, Evaluation, Reached
from nas_theseus.values.recipe import Recipe


@dataclass(frozen=True)
class Converted:
    """A candidate's evaluation and its network, in eval mode on the CPU."""

    evaluation: Evaluation
    network: Target


@dataclass(frozen=True)
class Progress:
    """What a running candidate tells after each step: where it is, and new points of its curve.

    Attributes:
        block: one that it had to convert into the library first.
        reached: a rung, where it may be stopped.
    """

    stage: str
    points: tuple[CurvePoint, ...] = ()
    block: BlockOutcome | None = None
    reached: Reached | None = None


@dataclass
class Workshop:
    """What all candidates of one process share: space, guide, the guide's activations, costs.

    A candidate's result depends on its architecture, recipe and seed alone, never on which
    candidates ran in the workshop before it.

    Attributes:
        space: its guide holds the prepared weights.
        device: everything trains here.
        guide_work: folder in which the guide's activations are kept for other processes.
    """

    space: SearchSpace
    device: torch.device
    guide_work: Path | None = None
    costs: CostTable = field(init=False)
    activations: GuideActivations = field(init=False)
    _keys: dict[str, BlockKeys] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.costs = CostTable(self.space)
        self._guide_on_device = self.space.guide.to(self.device)
        recipe = self.space.recipe
        sample = self.space.task.sample(min(recipe.align_examples, self.space.task.size("train")))
        self.activations = GuideActivations(
            self._guide_on_device, sample, self.device, folder=self.guide_work
        )

    def keep_block(self, key: BlockKey, library: Library) -> tuple[Entry, BlockOutcome | None]:
        """The library's entry of a key; converted and kept first where there is none.

        Returns:
            The entry, and what converting it here took; None when it was there.

        Raises:
            LibraryError, ConversionError, PairingError: as `convert.block_conversion.keep_block`.
        """
        entry, facts = keep_block(self.space, library, key, self.activations)
        if facts is None:
            return entry, None
        return entry, BlockOutcome(key.id, str(key), facts.macs, facts.seconds)

    def _take_blocks(
        self, target: Target, library: Library, recipe: Recipe
    ) -> Iterator[tuple[int, Entry, BlockOutcome | None]]:
        """Put the library's blocks into a target; positions with their entries."""
        alignment = canonical_json(recipe.alignment)
        if alignment not in self._keys:
            self._keys[alignment] = BlockKeys(self.space, recipe)
        keys = self._keys[alignment].of_blocks(target.architecture)
        for position, key in enumerate(keys):
            if key is not None:
                block = target.blocks[position]
                entry, made = library.get(key, block), None
                if entry is None:  # damaged, or removed since it was made
                    entry, made = self.keep_block(key, library)
                load_into(block, entry.state)
                yield position, entry, made

    def run(
        self,
        architecture: Architecture,
        search_seed: int,
        recipe: Recipe | None = None,
        *,
        library: Library | None = None,
        score_hybrids: bool = False,
    ) -> Generator[Progress, None, Converted]:
        """Convert, finetune and evaluate one architecture, a step at a time.

        Args:
            search_seed: the trial's own seed derives from it and the architecture.
            recipe: the space's by default; alignment sees the workshop's own sample whatever
                `align_examples` another one says.
            library: where blocks are taken from when the recipe says so; those that are missing
                are converted into it, at no charge to this candidate.
            score_hybrids: measure the half-converted network after every stage as well, as
                ``hybrid/<metric>``.

        Yields:
            Progress after every conversion stage and every epoch.

        Raises:
            ConversionError: the candidate diverged, or there is no library to take blocks from.
            LibraryError: the library cannot be read, or written where a block is missing.
            PairingError: a block cannot stand for its span.
        """
        recipe = recipe or self.space.recipe
        task = self.space.task
        started = time.perf_counter()
        seed = derive_seed(architecture.id, search_seed)
        macs = MacCounter(self.costs, architecture)
        curve: list[CurvePoint] = []
        fresh = recipe.untouched_by_guide
        target = assemble(
            self.space, architecture, seed, fresh=fresh, activations=self.activations
        ).to(self.device)
        teacher = self.activations if recipe.taught else None
        # An architecture that keeps every part is the guide: there is nothing to convert or train.
        families = self.space.families
        is_guide = all(families[c.block].keeps for c in architecture.choices) and not fresh
        pieces = 1
        names = {rung.epoch: rung.name for rung in rungs_of(recipe, self.space.metric)}
        measured: dict[str, float] | None = None

        def evaluated() -> Evaluation:
            """What the candidate is now; what is measured is so once, as training changes none."""
            nonlocal measured
            space = self.space
            if measured is None:
                measured = measured_costs(space.measured, target, task.inlet, self.device)
            spread = {name: value for name, value in measured.items() if name not in MEASURED}
            memory = measured.get("peak_memory_bytes")
            notes = ["the guide itself: every part kept, nothing trained"] if is_guide else []
            if pieces > 1:
                notes.append(f"out of memory: batches were computed in {pieces} pieces")
            quality = curve[-1].value if curve else score(target, task, "validation")
            return Evaluation(
                architecture=architecture,
                recipe=recipe.id,
                seed=search_seed,
                metrics={space.metric: quality, **spread},
                cost=replace(
                    self.costs.of(architecture),
                    latency_ms=measured.get("latency_ms"),
                    peak_memory_bytes=None if memory is None else int(memory),
                ),
                train_macs_spent=macs.spent,
                seconds=time.perf_counter() - started,
                curve=tuple(curve),
                notes=tuple(notes),
            )

        def reached(epoch: int) -> Reached | None:
            return Reached(names[epoch], evaluated()) if epoch in names else None

        if not is_guide:
            generator = torch.Generator().manual_seed(seed)
            measure = similarity(recipe.similarity, **recipe.similarity_options.given)

            def hybrids(number: int, stage: Stage) -> Iterator[CurvePoint]:
                if not (recipe.hybrid_epochs or score_hybrids):
                    return
                hybrid = Hybrid(target, self.activations, stage.replaced)
                short = recipe.model_copy(update={"epochs": recipe.hybrid_epochs})
                for epoch in train(hybrid, task, short, derive_seed(seed, number), teacher):
                    macs.hybrid(epoch, stage.replaced)
                    yield CurvePoint("hybrid_loss", number, epoch.loss)
                if score_hybrids:
                    value = score(hybrid, task, "validation")
                    yield CurvePoint(f"hybrid/{self.space.metric}", number, value)

            polished = recipe.polish_steps or recipe.hybrid_epochs or score_hybrids
            if recipe.takes_blocks:
                if library is None:
                    raise ConversionError(
                        "the recipe takes blocks from the library, and there is none; give one, "
                        "or set library=false"
                    )
                for position, entry, made in self._take_blocks(target, library, recipe):
                    facts = entry.record.facts
                    # Stages that follow tell their own.
                    points = () if polished else (
                        CurvePoint(f"similarity/{position}", 0, facts.similarity),
                        CurvePoint(f"stitch_residual/{position}", 0, facts.residual),
                    )  # fmt: skip
                    curve.extend(points)
                    yield Progress("convert", points, made)
            if polished or not recipe.takes_blocks:
                steps = recipe.polish_steps if recipe.takes_blocks else recipe.align_steps
                aligned = recipe.model_copy(update={"align_steps": steps})
                for point in align(target, self.activations, measure, aligned, generator, hybrids):
                    curve.append(point)
                    yield Progress("convert", (point,))
                macs.alignment(aligned, target, self.activations.count, curve)
            # Grown from the guide alone, a network has its statistics.
            if recipe.recalibrate and not fresh and not all(target.preserving):
                examples = min(recipe.align_examples, task.size("train"))
                macs.forward(recalibrate(target, task, recipe.align_batch_size, examples))
            target.thaw()
            for epoch in train(target, task, recipe.settling, derive_seed("settle", seed), teacher):
                macs.training(epoch)
                pieces = epoch.pieces
            converted = CurvePoint(self.space.metric, 0, score(target, task, "validation"))
            curve.append(converted)
            yield Progress("convert", (converted,), reached=reached(0))
            for epoch in train(target, task, recipe, seed, teacher):
                macs.training(epoch)
                pieces = epoch.pieces
                trained = (
                    CurvePoint("train_loss", epoch.epoch + 1, epoch.loss),
                    CurvePoint(self.space.metric, epoch.epoch + 1,
                               score(target, task, "validation")),
                )  # fmt: skip
                curve.extend(trained)
                yield Progress("finetune", trained, reached=reached(epoch.epoch + 1))
        return Converted(evaluated(), target.eval().to("cpu"))


@dataclass
class MacCounter:
    """Multiply-adds spent on one candidate: forward once, backward twice a forward.

    A frozen block behind a trained one costs its forward and the gradient of its input. Not
    counted: the guide's activations, its logits where they are cached (one pass a process), the
    least squares of stitches, and similarities. A guide that teaches uncached inputs (augmented,
    streamed) is.
    """

    costs: CostTable
    architecture: Architecture
    spent: int = 0

    def forward(self, examples: int) -> None:
        self.spent += examples * self.costs.of(self.architecture).macs

    def training(self, epoch: EpochLoss) -> None:
        self.spent += 3 * epoch.examples * self.costs.of(self.architecture).macs
        self.spent += epoch.taught * sum(self.costs.part_macs)

    def hybrid(self, epoch: EpochLoss, replaced: Collection[int]) -> None:
        """Task training of a hybrid: the guide's parts before the first new block run once."""
        blocks = self.costs.of_blocks(self.architecture)
        for position, (choice, block) in enumerate(
            zip(self.architecture.choices, blocks, strict=True)
        ):
            guide = sum(self.costs.part_macs[choice.span.start : choice.span.stop])
            # What has no parameters has nothing to wait for (`Hybrid`).
            each = block.macs if position in replaced or not block.params else guide
            self.spent += epoch.examples * each * _passes(position, replaced)
        self.spent += epoch.taught * sum(self.costs.part_macs)

    def alignment(
        self, recipe: Recipe, target: Target, sample: int, curve: Iterable[CurvePoint]
    ) -> None:
        """All stages, with the steps that each one took."""
        batch = min(recipe.align_batch_size, sample)
        each = [cost.macs for cost in self.costs.of_blocks(self.architecture)]
        steps = {p.step: int(p.value) for p in curve if p.metric == "align_steps"}
        begun = similarity(recipe.similarity, **recipe.similarity_options.given).aligned_basis
        done: Collection[int] = ()
        ran: Stage | None = None
        for number, stage in enumerate(stages(recipe.schedule, recipe.order, target.replaced)):
            if number in steps:
                first = stage.trained[0]
                step = sum(each[p] * _passes(p, stage.trained) for p in range(first, stage.stop))
                self.spent += steps[number] * batch * step
                # What is newly frozen in front runs once; the chain for batch norms and stitch.
                self.spent += sample * sum(each[runs_from(stage, ran) : first])
                ran = None if recipe.hybrid_epochs else stage
                passes = 1 + any(batch_norms(target.blocks[p]) for p in stage.trained)
                self.spent += sample * passes * sum(each[first : stage.stop])
                for p in set(stage.trained) - set(done) if begun else ():
                    passes = 1 + bool(batch_norms(target.blocks[p]))
                    self.spent += sample * passes * sum(each[first : p + 1])
            done = stage.replaced


def _passes(position: int, trained: Collection[int]) -> int:
    """Forward, gradient of the input, gradient of the weights: those that a block needs."""
    return 3 if position in trained else 2 if position > min(trained) else 1
