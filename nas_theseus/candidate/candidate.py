"""One candidate on its way from an architecture to an evaluation."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.alignment import passes
from nas_theseus.conversion.finetune import EpochLoss
from nas_theseus.conversion.target import Target
from nas_theseus.costs import measured_costs
from nas_theseus.library.store import Library
from nas_theseus.space.search_space import MEASURED, SearchSpace
from nas_theseus.tasks.score import score
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.events import Progress
from nas_theseus.values.outcomes import CurvePoint, Evaluation
from nas_theseus.values.recipe import Recipe

if TYPE_CHECKING:
    from nas_theseus.candidate.workshop import Workshop


@dataclass(frozen=True)
class Order:
    """What is to be made.

    Attributes:
        search_seed: of the search.
        seed: of this candidate; derives from the search's and the architecture.
        library: where blocks are taken from when the recipe says so.
        score_hybrids: measure the half-converted network after every stage as well.
    """

    architecture: Architecture
    recipe: Recipe
    search_seed: int
    seed: int
    library: Library | None = None
    score_hybrids: bool = False


@dataclass
class Candidate:
    """A candidate and what its steps have done so far.

    Attributes:
        workshop: what it shares with other candidates.
        target: the network, on the workshop's device.
        curve: all points so far.
        macs: multiply-adds spent so far: forward once, backward twice a forward. Not counted: the
            guide's activations, and its logits where they are cached.
        pieces: in how many pieces a batch was computed last, since memory did not hold more.
    """

    workshop: Workshop
    order: Order
    target: Target
    curve: list[CurvePoint] = field(default_factory=list)
    macs: int = 0
    pieces: int = 1
    _measured: dict[str, float] | None = None
    _started: float = field(default_factory=time.perf_counter)

    @property
    def space(self) -> SearchSpace:
        return self.workshop.space

    @property
    def recipe(self) -> Recipe:
        return self.order.recipe

    @property
    def device(self) -> torch.device:
        return self.workshop.device

    @property
    def teacher(self) -> GuideActivations | None:
        """The guide, where its logits teach."""
        return self.workshop.activations if self.recipe.taught else None

    @property
    def is_guide(self) -> bool:
        """Whether every part is kept, so that there is nothing to convert or train."""
        families = self.space.families
        kept = all(families[c.block].keeps for c in self.order.architecture.choices)
        return kept and not self.recipe.untouched_by_guide

    def take(self, event: Progress) -> None:
        """Add what a step did to what was done before."""
        self.curve.extend(event.points)
        self.macs += event.macs

    def score(self) -> float:
        """Quality on validation as it is now."""
        return score(self.target, self.space.task, "validation")

    def forward_macs(self, examples: int) -> int:
        """Multiply-adds of running examples through the candidate."""
        return examples * self.workshop.costs.of(self.order.architecture).macs

    def training_macs(self, epoch: EpochLoss) -> int:
        """Multiply-adds of an epoch: forward, backward, and a teacher that ran anew."""
        return 3 * self.forward_macs(epoch.examples) + self._taught_macs(epoch)

    def hybrid_macs(self, epoch: EpochLoss, replaced: Collection[int]) -> int:
        """The same of a half-converted network, whose other parts are the guide's, frozen."""
        spent = self._taught_macs(epoch)
        costs = self.workshop.costs
        architecture = self.order.architecture
        blocks = costs.of_blocks(architecture)
        for position, (choice, block) in enumerate(zip(architecture.choices, blocks, strict=True)):
            guide = sum(costs.part_macs[choice.span.start : choice.span.stop])
            # What has no parameters has nothing to wait for (`Hybrid`).
            each = block.macs if position in replaced or not block.params else guide
            spent += epoch.examples * each * passes(position, replaced)
        return spent

    def _taught_macs(self, epoch: EpochLoss) -> int:
        return epoch.taught * sum(self.workshop.costs.part_macs)

    def evaluation(self) -> Evaluation:
        """What the candidate is now; costs are measured once, as training changes none."""
        space, architecture = self.space, self.order.architecture
        if self._measured is None:
            inlet = space.task.inlet
            self._measured = measured_costs(space.measured, self.target, inlet, self.device)
        measured = self._measured
        spread = {name: value for name, value in measured.items() if name not in MEASURED}
        memory = measured.get("peak_memory_bytes")
        notes = ["the guide itself: every part kept, nothing trained"] if self.is_guide else []
        if self.pieces > 1:
            notes.append(f"out of memory: batches were computed in {self.pieces} pieces")
        quality = self.curve[-1].value if self.curve else self.score()
        return Evaluation(
            architecture=architecture,
            recipe=self.recipe.id,
            seed=self.order.search_seed,
            metrics={space.metric: quality, **spread},
            cost=replace(
                self.workshop.costs.of(architecture),
                latency_ms=measured.get("latency_ms"),
                peak_memory_bytes=None if memory is None else int(memory),
            ),
            train_macs_spent=self.macs,
            seconds=time.perf_counter() - self._started,
            curve=tuple(self.curve),
            notes=tuple(notes),
        )
