"""One candidate on its way from an architecture to an evaluation."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import nn

from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.divergence import ReplaceOne
from nas_theseus.conversion.finetune import EpochLoss
from nas_theseus.conversion.target import Target
from nas_theseus.conversion.training_macs import training_macs
from nas_theseus.costs.table import CostTable
from nas_theseus.costs.taking import MeasuredCosts, measured_costs
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.tasks.score import scores
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.events import Progress
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.outcomes import Cost, CurvePoint, Evaluation
from nas_theseus.values.recipe import Recipe


@dataclass
class Candidate:
    """A candidate, and what its steps have done so far.

    Attributes:
        space, costs, activations, device: shared by all candidates of the workshop.
        search_seed: of the search.
        replacing: measures the divergence of blocks that the library lacks; the workshop's.
        target: the network, on the device, from the step `assemble` on.
        curve: all points so far.
        macs: multiply-adds spent so far, the sum of those in the steps' events. Not counted: the
            guide's activations, its logits if they are cached (one pass per process), the least
            squares of stitches, and similarities.
        pieces: number of pieces into which the last batch was split to fit into memory.
    """

    space: SearchSpace
    costs: CostTable
    activations: GuideActivations
    device: torch.device
    architecture: Architecture
    recipe: Recipe
    search_seed: int
    replacing: ReplaceOne | None = None
    target: Target = field(init=False)
    curve: list[CurvePoint] = field(init=False, default_factory=list)
    macs: int = field(init=False, default=0)
    pieces: int = field(init=False, default=1)
    _measured: MeasuredCosts | None = field(init=False, default=None)
    _beside: dict[str, float] = field(init=False, default_factory=dict)
    _started: float = field(init=False, default_factory=time.perf_counter)

    @property
    def seed(self) -> int:
        """This candidate's own seed, derived from the search's seed and the architecture."""
        return derive_seed(self.architecture.id, self.search_seed)

    @property
    def teacher(self) -> GuideActivations | None:
        """The guide's activations if the recipe distils logits or hidden states, else None."""
        return self.activations if self.recipe.guided else None

    @property
    def kept(self) -> tuple[int, ...]:
        """Positions of kept parts; none if they start from random weights, too."""
        families, choices = self.space.families, self.architecture.choices
        kept = (position for position, c in enumerate(choices) if families[c.block].keeps)
        return () if self.recipe.untouched_by_guide else tuple(kept)

    @property
    def frozen(self) -> tuple[int, ...]:
        """Positions of kept parts that the recipe does not train."""
        frozen = self.recipe.freeze_kept
        patterns = ("*",) if frozen is True else frozen or ()
        names, choices = self.space.guide.names, self.architecture.choices
        return tuple(
            position
            for position in self.kept
            if any(fnmatchcase(names[choices[position].span.start], one) for one in patterns)
        )

    @property
    def kept_parameters(self) -> list[nn.Parameter]:
        """Weights that no other parts share."""
        return self._parameters_of_none_but(self.kept)

    def _parameters_of_none_but(self, positions: Collection[int]) -> list[nn.Parameter]:
        """Weights of some blocks, without those that they share with other blocks."""
        others = set(range(len(self.target.blocks))) - set(positions)
        shared = {id(parameter) for parameter in self.target.parameters_of(others)}
        return [p for p in self.target.parameters_of(positions) if id(p) not in shared]

    def thaw(self) -> None:
        """Make the whole network trainable, except the kept parts that the recipe freezes."""
        self.target.thaw()
        for parameter in self._parameters_of_none_but(self.frozen):
            parameter.requires_grad_(False)

    @property
    def is_guide(self) -> bool:
        """Whether every guide part is kept, so that there is nothing to convert or train."""
        families = self.space.families
        kept = all(families[c.block].keeps for c in self.architecture.choices)
        return kept and not self.recipe.untouched_by_guide

    @property
    def is_grown(self) -> bool:
        """Whether every block starts with the function of the guide parts that it replaces."""
        families = self.space.families
        return all(families[c.block].preserves for c in self.architecture.choices)

    @property
    def block_macs(self) -> list[int]:
        """Multiply-adds of each block's forward for one example, by position."""
        return [cost.macs for cost in self.costs.of_blocks(self.architecture)]

    def take(self, event: Progress) -> None:
        """Add a step's points and multiply-adds."""
        self.curve.extend(event.points)
        self.macs += event.macs

    def score(self) -> float:
        """Current quality on validation data."""
        task = self.space.task
        found = scores(self.target, task, "validation")
        self._beside = {f"val_{n}": value for n, value in found.items() if n != task.metric}
        return found[task.metric]

    def forward_macs(self, examples: int) -> int:
        """Multiply-adds of running examples through the candidate."""
        return examples * sum(self.block_macs)

    def training_macs(self, epoch: EpochLoss, replaced: Collection[int] | None = None) -> int:
        """Multiply-adds of an epoch: forward, backward, and forward passes of the teacher.

        Args:
            replaced: positions of the blocks that train in a half-converted network, which has
                guide parts in place of the others. Default: the whole candidate trains.
        """
        part_macs = self.costs.part_macs
        forward = dict(enumerate(self.block_macs))
        if replaced is not None:
            choices = self.architecture.choices
            costs = self.costs.of_blocks(self.architecture)
            for position, (choice, cost) in enumerate(zip(choices, costs, strict=True)):
                # A block without parameters has replaced its part from the start (`Hybrid`).
                if position not in replaced and cost.params:
                    forward[position] = sum(part_macs[choice.span.start : choice.span.stop])
        trained = forward.keys() - set(self.frozen) if replaced is None else replaced
        each = training_macs(forward, trained)
        if self.recipe.checkpointing:  # all that the backward pass goes through runs again
            each += sum(macs for p, macs in forward.items() if p >= min(trained))
        return epoch.examples * each + epoch.taught * sum(part_macs)

    def evaluation(self) -> Evaluation:
        """Evaluate the candidate as it is; costs are measured once, as training changes none."""
        space, architecture = self.space, self.architecture
        if self._measured is None:
            network = space, self.target, self.device
            self._measured = measured_costs(*network, blocks=list(self.target.blocks))
        counted = self.costs.of(architecture)
        notes = ["the guide itself: every part kept, nothing trained"] if self.is_guide else []
        if note := getattr(space.task, "note", None):
            notes.append(note)
        if self.pieces > 1:
            notes.append(f"out of memory: batches were computed in {self.pieces} pieces")
        quality = self.curve[-1].value if self.curve else self.score()
        return Evaluation(
            architecture=architecture,
            recipe=self.recipe.id,
            seed=self.search_seed,
            metrics={space.metric: quality, **self._beside, **self._measured.beside},
            cost=Cost({**counted.known(), **self._measured.costs}),
            train_macs_spent=self.macs,
            seconds=time.perf_counter() - self._started,
            curve=tuple(self.curve),
            notes=tuple(notes),
        )


@dataclass(frozen=True)
class Converted:
    """The last event of a conversion: the candidate's evaluation and its network.

    Attributes:
        network: in eval mode on the CPU.
    """

    evaluation: Evaluation
    network: Target
