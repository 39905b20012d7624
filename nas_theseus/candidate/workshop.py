"""What all candidates of one process share, and how one of them is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nas_theseus.candidate.candidate import Candidate, Order
from nas_theseus.candidate.steps import Event, steps_of
from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.target import Target, assemble
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import ConversionError
from nas_theseus.library.block_conversion import keep_block
from nas_theseus.library.block_key import BlockKey, BlockKeys
from nas_theseus.library.store import Entry, Library
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.events import Progress
from nas_theseus.values.ids import canonical_json, derive_seed
from nas_theseus.values.outcomes import BlockOutcome, Evaluation
from nas_theseus.values.recipe import Recipe


@dataclass(frozen=True)
class Converted:
    """The last event of a conversion: the candidate's evaluation and its network.

    Attributes:
        network: in eval mode on the CPU.
    """

    evaluation: Evaluation
    network: Target


@dataclass
class Workshop:
    """What all candidates of one process share: space, guide, the guide's activations, costs.

    A candidate's result depends on its architecture, recipe and seed alone, never on which
    candidates were made in the workshop before it.

    Attributes:
        space: its guide holds the prepared weights.
        device: everything trains here.
        guide_work: folder in which the guide's activations are saved for other processes.
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

    def keys(self, recipe: Recipe) -> BlockKeys:
        """Makes the keys of the space's blocks, as a recipe aligns them."""
        alignment = canonical_json(recipe.alignment)
        if alignment not in self._keys:
            self._keys[alignment] = BlockKeys(self.space, recipe)
        return self._keys[alignment]

    def keep_block(self, key: BlockKey, library: Library) -> tuple[Entry, BlockOutcome | None]:
        """The library's entry of a key; converted and saved first where there is none.

        Returns:
            The entry, and what converting it here took; None when it was there.

        Raises:
            LibraryError, ConversionError, PairingError: as `library.block_conversion.keep_block`.
        """
        entry, facts = keep_block(self.space, library, key, self.activations)
        if facts is None:
            return entry, None
        return entry, BlockOutcome(key.id, str(key), facts.macs, facts.seconds)

    def convert(
        self,
        architecture: Architecture,
        search_seed: int,
        recipe: Recipe | None = None,
        *,
        library: Library | None = None,
        score_hybrids: bool = False,
    ) -> Iterator[Event | Converted]:
        """Convert, finetune and evaluate one architecture, a step at a time.

        Args:
            search_seed: the trial's own seed derives from it and the architecture.
            recipe: Default: the space's. Alignment sees the workshop's own sample whatever
                `align_examples` another one says.
            library: where blocks are taken from when the recipe says so; those that are missing
                are converted into it, at no charge to this candidate.
            score_hybrids: measure the half-converted network after every stage as well, as
                ``hybrid/<metric>``.

        Yields:
            What each step did, the rungs it came to, and last the converted network.

        Raises:
            ConversionError: the candidate diverged, or there is no library to take blocks from.
            LibraryError: the library cannot be read, or written where a block is missing.
            PairingError: a block cannot stand for its span.
        """
        recipe = recipe or self.space.recipe
        seed = derive_seed(architecture.id, search_seed)
        order = Order(architecture, recipe, search_seed, seed, library, score_hybrids)
        candidate = self._assembled(order)
        yield Progress("assemble")
        for step in steps_of(candidate):
            for event in step.run(candidate):
                if isinstance(event, Progress):
                    candidate.take(event)
                yield event
        yield Progress("measure")
        evaluation = candidate.evaluation()
        yield Converted(evaluation, candidate.target.eval().to("cpu"))

    def _assembled(self, order: Order) -> Candidate:
        """A candidate of new blocks and copies of the guide's parts."""
        target = assemble(
            self.space,
            order.architecture,
            order.seed,
            fresh=order.recipe.untouched_by_guide,
            activations=self.activations,
        )
        return Candidate(self, order, target.to(self.device))


def result_of(events: Iterator[Event | Converted]) -> Converted:
    """The end of a conversion whose other events nobody needs.

    Raises:
        ConversionError: the events have no end; and as `Workshop.convert`.
    """
    for event in events:
        if isinstance(event, Converted):
            return event
    raise ConversionError("the conversion ended without a result")
