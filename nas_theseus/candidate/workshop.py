"""The workshop: what all candidates of one process share, and the steps that make one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from nas_theseus.candidate.candidate import Candidate, Converted
from nas_theseus.candidate.steps import Event, steps_of
from nas_theseus.conversion.activations import SAMPLE_LIMIT_BYTES, GuideActivations
from nas_theseus.conversion.divergence import ReplaceOne
from nas_theseus.conversion.room import free_memory_bytes, require_room
from nas_theseus.costs.block_measurements import BlockMeasurements
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
        measurements: of the costs that are measured on blocks. Default: those costs are left out.

    Raises:
        ConversionError: there is too little disk or memory for activations in bfloat16.
    """

    space: SearchSpace
    device: torch.device
    guide_work: Path | None = None
    measurements: BlockMeasurements | None = None
    costs: CostTable = field(init=False)
    activations: GuideActivations = field(init=False)
    _keys: dict[str, BlockKeys] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.costs = CostTable(self.space, self.measurements)
        guide, task = self.space.guide.to(self.device), self.space.task
        recipe = self.space.recipe
        check_room(self.space, self.device, self.guide_work)
        sample = task.sample(min(recipe.align_examples, task.size("train")))
        self.activations = GuideActivations(
            guide,
            sample,
            self.device,
            folder=self.guide_work,
            dtype=recipe.activations_dtype,
            selects=self.space.selects_channels,
        )

    def keys(self, recipe: Recipe) -> BlockKeys:
        """Makes the keys of the space's blocks, as a recipe aligns them."""
        alignment = canonical_json(recipe.alignment)
        if alignment not in self._keys:
            self._keys[alignment] = BlockKeys(self.space, recipe)
        return self._keys[alignment]

    def keep_block(self, key: BlockKey, library: Library) -> tuple[Entry, BlockOutcome | None]:
        """As `library.block_conversion.keep_block`, for the workshop's space and activations."""
        return keep_block(self.space, library, key, self.activations, self.replacing)

    @cached_property
    def replacing(self) -> ReplaceOne | None:
        """Measures the divergence of blocks; None if the recipe or the task has none."""
        space, examples = self.space, self.space.recipe.divergence_examples
        if not examples or not callable(getattr(space.task, "distillation", None)):
            return None
        return ReplaceOne(space.guide, space.task, examples, self.device, self.guide_work)

    def candidate(
        self, architecture: Architecture, search_seed: int, recipe: Recipe | None = None
    ) -> Candidate:
        """A candidate that no step has worked on.

        Args:
            recipe: Default: the space's.
        """
        recipe = recipe or self.space.recipe
        shared = self.space, self.costs, self.activations, self.device
        return Candidate(*shared, architecture, recipe, search_seed, self.replacing)

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


def check_room(space: SearchSpace, device: torch.device, guide_work: Path | None) -> None:
    """Check that the guide's activations in bfloat16 fit; those in float32 are cut to fit.

    Raises:
        ConversionError: there is too little disk or memory.
    """
    if space.recipe.activations_dtype == "bfloat16":
        examples = min(space.recipe.align_examples, space.task.size("train"))
        free, last = free_memory_bytes(device), last_replaced(space)
        require_room(space.guide, examples, SAMPLE_LIMIT_BYTES, free, guide_work, last)


def last_replaced(space: SearchSpace) -> int:
    """The last boundary behind a block that does not keep the guide's part; 0 for none."""
    families = space.families
    new = (
        span.stop
        for (span, _), names in space.fitting.items()
        if any(not families[name].keeps for name in names)
    )
    return max(new, default=0)


def result_of(events: Iterable[Event]) -> Converted:
    """Run a conversion to its end; all other events are ignored.

    Raises:
        ConversionError: there is no last event; or as `Workshop.convert`.
    """
    for event in events:
        if isinstance(event, Converted):
            return event
    raise ConversionError("the conversion ended without a result")
