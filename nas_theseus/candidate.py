"""One candidate from architecture to evaluation: convert, assemble, finetune, measure."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field

import torch

from nas_theseus.convert.activations import GuideActivations
from nas_theseus.convert.finetune import train
from nas_theseus.convert.schedules import align, stages
from nas_theseus.convert.similarity import similarity
from nas_theseus.convert.target import Target, assemble, recalibrate
from nas_theseus.costs.table import CostTable
from nas_theseus.evaluate import score
from nas_theseus.settings import Recipe
from nas_theseus.space import SearchSpace
from nas_theseus.values import Architecture, CurvePoint, Evaluation, derive_seed


@dataclass(frozen=True)
class Converted:
    """A candidate's evaluation and its network, in eval mode on the CPU."""

    evaluation: Evaluation
    network: Target


@dataclass(frozen=True)
class Progress:
    """What a running candidate tells after each step: where it is, and new points of its curve."""

    stage: str
    points: tuple[CurvePoint, ...] = ()


@dataclass
class Workshop:
    """What all candidates of one process share: space, guide, the guide's activations, costs.

    A candidate's result depends on its architecture, recipe and seed alone, never on which
    candidates ran in the workshop before it.

    Attributes:
        space: its guide holds the prepared weights.
        device: everything trains here.
    """

    space: SearchSpace
    device: torch.device
    costs: CostTable = field(init=False)
    activations: GuideActivations = field(init=False)

    def __post_init__(self) -> None:
        self.costs = CostTable(self.space)
        self._guide_on_device = self.space.guide.to(self.device)
        recipe = self.space.recipe
        sample = self.space.task.sample(min(recipe.align_examples, self.space.task.size("train")))
        self.activations = GuideActivations(self._guide_on_device, sample, self.device)

    def run(
        self, architecture: Architecture, search_seed: int, recipe: Recipe | None = None
    ) -> Generator[Progress, None, Converted]:
        """Convert, finetune and evaluate one architecture, a step at a time.

        Args:
            search_seed: the trial's own seed derives from it and the architecture.
            recipe: the space's by default.

        Yields:
            Progress after every conversion stage and every epoch.

        Raises:
            ConversionError: the candidate diverged.
            PairingError: a block cannot stand for its span.
        """
        recipe = recipe or self.space.recipe
        task = self.space.task
        started = time.perf_counter()
        seed = derive_seed(architecture.id, search_seed)
        macs = MacCounter(self.costs, architecture)
        curve: list[CurvePoint] = []
        from_scratch = recipe.schedule == "scratch"
        target = assemble(self.space, architecture, seed, fresh=from_scratch).to(self.device)
        # An architecture that keeps every part is the guide: there is nothing to convert or train.
        is_guide = all(target.kept) and not from_scratch
        if not is_guide:
            generator = torch.Generator().manual_seed(seed)
            measure = similarity(recipe.similarity)
            for point in align(target, self.activations, measure, recipe, generator):
                curve.append(point)
                yield Progress("convert", (point,))
            macs.alignment(recipe, target, self.activations.count)
            if recipe.recalibrate:
                examples = min(recipe.align_examples, task.size("train"))
                macs.forward(recalibrate(target, task, recipe.align_batch_size, examples))
            target.thaw()
            converted = CurvePoint(self.space.metric, 0, score(target, task, "validation"))
            curve.append(converted)
            yield Progress("convert", (converted,))
            teacher = self.activations if recipe.distill > 0 and not from_scratch else None
            for epoch in train(target, task, recipe, seed, teacher):
                macs.training(epoch.examples)
                macs.spent += epoch.taught * self.costs.of_parts().macs
                points = (
                    CurvePoint("train_loss", epoch.epoch + 1, epoch.loss),
                    CurvePoint(self.space.metric, epoch.epoch + 1,
                               score(target, task, "validation")),
                )  # fmt: skip
                curve.extend(points)
                yield Progress("finetune", points)
        quality = curve[-1].value if curve else score(target, task, "validation")
        evaluation = Evaluation(
            architecture=architecture,
            recipe=recipe.id,
            seed=search_seed,
            metrics={self.space.metric: quality},
            cost=self.costs.of(architecture),
            train_macs_spent=macs.spent,
            seconds=time.perf_counter() - started,
            curve=tuple(curve),
            notes=("the guide itself: every part kept, nothing trained",) if is_guide else (),
        )
        return Converted(evaluation, target.eval().to("cpu"))


@dataclass
class MacCounter:
    """Multiply-adds spent on one candidate: forward once, backward twice a forward.

    A frozen block behind a trained one costs its forward and the gradient of its input. Not
    counted: the guide's activations, its logits where they are cached (one pass a process), and
    the least squares of stitches. A guide that teaches uncached inputs (augmented, streamed) is.
    """

    costs: CostTable
    architecture: Architecture
    spent: int = 0

    def forward(self, examples: int) -> None:
        self.spent += examples * self.costs.of(self.architecture).macs

    def training(self, examples: int) -> None:
        self.spent += 3 * examples * self.costs.of(self.architecture).macs

    def alignment(self, recipe: Recipe, target: Target, sample: int) -> None:
        batch = min(recipe.align_batch_size, sample)
        each = [self.costs.of_choice(c).macs for c in self.architecture.choices]
        for stage in stages(recipe.schedule, recipe.order, target.replaced):
            step = 0
            for position in range(stage.start, stage.stop):
                behind = position > min(stage.trained)
                passes = 3 if position in stage.trained else 2 if behind else 1
                step += passes * each[position]
            chain = sum(each[stage.start : stage.stop])
            self.spent += recipe.align_steps * batch * step + sample * chain
