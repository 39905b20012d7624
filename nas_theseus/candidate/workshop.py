"""The workshop: what all candidates of one process share, and the steps that make one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nas_theseus.candidate.candidate import Candidate, Converted
from nas_theseus.candidate.steps import Event, steps_of
from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import ConversionError
from nas_theseus.library.block_conversion import keep_block
from nas_theseus.library.block_key import BlockKey, BlockKeys
from nas_theseus.library.store import Entry, Library
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.events import Progress
from nas_theseus.values.ids import canonical_json
from nas_theseus.values.outcomes import BlockOutcome
from nas_theseus.values.recipe import Recipe


@dataclass
class Workshop:
    """Shared by all candidates of one process: space, guide, the guide's activations, costs.

    A candidate's result depends on its architecture, recipe and seed alone, never on which
    candidates were made in the workshop before it.

    Attributes:
        space: its guide holds the prepared weights.
        device: everything trains here.
        guide_work: folder for the guide's activations, shared with other processes.
    """

    space: SearchSpace
    device: torch.device
    guide_work: Path | None = None
    costs: CostTable = field(init=False)
    activations: GuideActivations = field(init=False)
    _keys: dict[str, BlockKeys] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.costs = CostTable(self.space)
        guide, task = self.space.guide.to(self.device), self.space.task
        sample = task.sample(min(self.space.recipe.align_examples, task.size("train")))
        self.activations = GuideActivations(guide, sample, self.device, folder=self.guide_work)

    def keys(self, recipe: Recipe) -> BlockKeys:
        """Makes the keys of the space's blocks, as a recipe aligns them."""
        alignment = canonical_json(recipe.alignment)
        if alignment not in self._keys:
            self._keys[alignment] = BlockKeys(self.space, recipe)
        return self._keys[alignment]

    def keep_block(self, key: BlockKey, library: Library) -> tuple[Entry, BlockOutcome | None]:
        """As `library.block_conversion.keep_block`, for the workshop's space and activations."""
        return keep_block(self.space, library, key, self.activations)

    def candidate(
        self, architecture: Architecture, search_seed: int, recipe: Recipe | None = None
    ) -> Candidate:
        """A candidate that no step has worked on.

        Args:
            recipe: Default: the space's.
        """
        recipe = recipe or self.space.recipe
        shared = self.space, self.costs, self.activations, self.device
        return Candidate(*shared, architecture, recipe, search_seed)

    def convert(
        self,
        architecture: Architecture,
        search_seed: int,
        recipe: Recipe | None = None,
        *,
        library: Library | None = None,
        score_hybrids: bool = False,
    ) -> Iterator[Event]:
        """Convert, finetune and evaluate one architecture, a step at a time.

        Args:
            search_seed: the candidate's own seed derives from it and the architecture.
            recipe: Default: the space's. Another recipe's `align_examples` has no effect, since
                alignment uses the workshop's sample.
            library: where blocks are taken from if the recipe says so. Missing ones are converted
                into it, which is not counted for this candidate.
            score_hybrids: also score the half-converted network after every stage, as
                ``hybrid/<metric>``.

        Yields:
            `Progress` when a step begins and whenever it did something, `Reached` at every rung,
            and `Converted` last.

        Raises:
            ConversionError: the candidate diverged, or there is no library to take blocks from.
            LibraryError: the library cannot be read, or a missing block cannot be written to it.
            PairingError: a block cannot stand for its span.
        """
        candidate = self.candidate(architecture, search_seed, recipe)
        keys = self.keys(candidate.recipe) if candidate.recipe.takes_blocks else None
        for step in steps_of(candidate, library, keys, score_hybrids=score_hybrids):
            yield Progress(step.name)
            for event in step.run(candidate):
                if isinstance(event, Progress):
                    candidate.take(event)
                yield event


def result_of(events: Iterable[Event]) -> Converted:
    """Run a conversion to its end; all other events are ignored.

    Raises:
        ConversionError: there is no last event; or as `Workshop.convert`.
    """
    for event in events:
        if isinstance(event, Converted):
            return event
    raise ConversionError("the conversion ended without a result")
