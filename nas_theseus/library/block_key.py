"""Keys of converted blocks: everything that a block's weights depend on, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from nas_theseus.conversion.activations import sample_size
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import (
    Architecture,
    BlockChoice,
    Boundary,
    Hyperparameter,
    Span,
)
from nas_theseus.values.fingerprint import fingerprint
from nas_theseus.values.ids import derive_seed, short_hash
from nas_theseus.values.recipe import Recipe

# Increase this when conversion gives different blocks for the same key: old entries are then not
# found.
FORMAT = 1


@dataclass(frozen=True)
class BlockKey:
    """What one converted block depends on; its id is the same on every machine.

    Attributes:
        guide: hash of the guide's weights, structure and code.
        data: hash of the task's training data, in order.
        block: the block's name in architectures.
        hyperparameters: given in any order, stored sorted.
        inlet, outlet: boundaries before and after the block; they include free widths.
        code: fingerprint of the built block, including a custom block's source text.
        recipe: settings that alignment depends on; all others are reset to their defaults.
            `align_examples` is the number of examples actually used.
        format: format of the library.
        basis: "channels" between widths where the guide's channels are selected; otherwise "".
    """

    guide: str
    data: str
    span: Span
    block: str
    hyperparameters: tuple[tuple[str, Hyperparameter], ...]
    inlet: Boundary
    outlet: Boundary
    code: str
    recipe: Recipe
    format: int = FORMAT
    basis: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "hyperparameters", tuple(sorted(self.hyperparameters)))
        alone = Recipe.from_record({"schedule": "independent", **self.recipe.alignment})
        object.__setattr__(self, "recipe", alone)

    @property
    def id(self) -> str:
        """Twenty hexadecimal digits of the SHA-256 of the key's canonical JSON."""
        return short_hash(self._identity(), 20)

    @property
    def seed(self) -> int:
        """Seed of random weights, batches and dropout; it depends on the key alone."""
        return derive_seed("block", self.id)

    @property
    def choice(self) -> BlockChoice:
        """The block choice without its widths, for messages."""
        return BlockChoice(self.span, self.block, self.hyperparameters)

    def __str__(self) -> str:
        return f"{self.choice} for {self.span.text}"

    @property
    def title(self) -> str:
        """Name of its conversion in dashboards."""
        return f"block {self}"

    def to_json(self) -> dict[str, Any]:
        return self._identity() | ({"parts": list(self.span.names)} if self.span.names else {})

    def _identity(self) -> dict[str, Any]:
        """Everything but the names of the parts, which the guide's hash includes."""
        return {
            "format": self.format,
            "guide": self.guide,
            "data": self.data,
            "span": [self.span.start, self.span.stop],
            "block": self.block,
            "hyperparameters": dict(self.hyperparameters),
            "inlet": asdict(self.inlet),
            "outlet": asdict(self.outlet),
            "code": self.code,
            "recipe": self.recipe.alignment,
            # Left out where it is not needed, so that ids of other blocks do not depend on it.
            **({"basis": self.basis} if self.basis else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BlockKey:
        """The inverse of `to_json`.

        Raises:
            ValueError, KeyError, TypeError: the data are not a key.
        """
        inlet, outlet = (
            Boundary(tuple(data[side]["shape"]), data[side]["integer"])
            for side in ("inlet", "outlet")
        )
        return cls(
            data["guide"],
            data["data"],
            Span(data["span"][0], data["span"][1], tuple(data.get("parts", ()))),
            data["block"],
            tuple(data["hyperparameters"].items()),
            inlet,
            outlet,
            data["code"],
            Recipe.from_record(data["recipe"]),
            data["format"],
            data.get("basis", ""),
        )


class BlockKeys:
    """Makes the keys of one space; its guide and data are hashed once.

    Args:
        space: search space whose guide has its prepared weights.
        recipe: recipe of the conversion. Default: the space's.
    """

    def __init__(self, space: SearchSpace, recipe: Recipe | None = None) -> None:
        recipe = recipe or space.recipe
        guide, task = space.guide, space.task
        self._space = space
        self._guide = short_hash([guide.content_hash(), fingerprint(guide)], 16)
        self._data = task.data_hash()
        wanted = min(recipe.align_examples, task.size("train"))
        seen = sample_size(guide, wanted, dtype=recipe.activations_dtype)
        self._recipe = recipe.model_copy(update={"align_examples": seen})
        # Building a block and reading its source text takes milliseconds.
        self._known: dict[tuple[BlockChoice, float], BlockKey] = {}

    def of(self, choice: BlockChoice, inlet_share: float = 1.0) -> BlockKey:
        """The key of one block whose inlet has a share of the guide's width.

        Raises:
            PairingError: the block cannot replace its span, or keeps the guide's part.
        """
        if (choice, inlet_share) not in self._known:
            self._known[choice, inlet_share] = self._make(choice, inlet_share)
        return self._known[choice, inlet_share]

    def of_space(self) -> dict[tuple[BlockChoice, float], BlockKey]:
        """The keys of all blocks of the space, by choice and width share of the inlet."""
        space = self._space
        return {
            (choice, share): self.of(choice, share)
            for span, share in space.fitting
            for choice in space.choices(span, share)
            if not space.families[choice.block].preserves
        }

    def of_blocks(self, architecture: Architecture) -> list[BlockKey | None]:
        """The key of each block of an architecture, in order.

        None for blocks that start with the guide part's function, which the library does not hold.
        """
        shares = [1.0, *(choice.width_share for choice in architecture.choices)]
        families = self._space.families
        return [
            None if families[choice.block].preserves else self.of(choice, share)
            for choice, share in zip(architecture.choices, shares, strict=False)
        ]

    def _make(self, choice: BlockChoice, inlet_share: float) -> BlockKey:
        space = self._space
        inlet = space.boundary(choice.span.start, inlet_share)
        outlet = space.boundary(choice.span.stop, choice.width_share)
        family = space.families[choice.block]
        if family.of_part:
            with torch.random.fork_rng(devices=[]):
                built = space.build(choice, inlet_share)
        else:
            with torch.device("meta"):
                built = family.build(inlet, outlet, choice.kwargs)
        own = space.boundary(choice.span.start), space.boundary(choice.span.stop)
        selects = space.selects_channels and (inlet, outlet) != own
        return BlockKey(
            self._guide,
            self._data,
            choice.span,
            choice.block,
            choice.hyperparameters,
            inlet,
            outlet,
            fingerprint(built, family.factory),
            self._recipe,
            basis="channels" if selects else "",
        )
