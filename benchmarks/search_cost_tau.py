"""How well cheap rungs rank architectures that are then trained fully: one architecture a cell."""

from __future__ import annotations

import functools
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.search_cost_regimes import (
    REGIMES,
    ROOT,
    Regime,
    described,
    prepared,
    spread_over,
    workshop,
)
from nas_theseus.candidate.workshop import Workshop, result_of
from nas_theseus.library.block_key import BlockKeys
from nas_theseus.library.store import Library
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.recipe import Recipe

# What a rung changes in the recipe, which otherwise polishes blocks from the library and trains on.
UNPOLISHED = {"polish_steps": 0}
RUNGS: dict[str, dict[str, Any]] = {
    "assembled": {"epochs": 0.0, **UNPOLISHED},
    "polished": {"epochs": 0.0},
    "settled: 0.25 epochs in batches of 16": {"epochs": 0.0, "settle_epochs": 0.25, **UNPOLISHED},
    "0.25 epochs, not polished": {"epochs": 0.25, **UNPOLISHED},
    "0.5 epochs": {"epochs": 0.5},
    "1 epoch": {"epochs": 1.0},
    "2 epochs": {"epochs": 2.0},
}
# Rungs have a seed of their own, or they would share luck with one of the full trainings.
FULL_SEEDS, RUNG_SEED = (0, 1), 2
LIBRARY = ROOT / "theseus" / "library"


@dataclass(frozen=True, order=True)
class TauCell:
    """One architecture, number `index` of `count` spread over the space."""

    regime: str
    index: int
    count: int
    images: int
    epochs: int
    recipe: str

    @property
    def sizes(self) -> Regime:
        return replace(REGIMES[self.regime], images=self.images, epochs=self.epochs)

    def __str__(self) -> str:
        """For people."""
        return f"{self.regime}, architecture {self.index} of {self.count}"


@functools.lru_cache(maxsize=1)
def _shared(sizes: Regime, recipe: str, count: int) -> tuple[Workshop, list[Architecture]]:
    space = prepared(sizes, Recipe.model_validate_json(recipe))
    return workshop(space), spread_over(space, count, 0)


def run_tau(cell: TauCell) -> dict[str, Any]:
    """All rungs and both full trainings of one architecture."""
    shop, chosen = _shared(cell.sizes, cell.recipe, cell.count)
    recipe, architecture = shop.space.recipe, chosen[cell.index]
    # The guide's logits are not a candidate's own work.
    if recipe.taught:
        shop.activations.logits(shop.space.task)
    library = Library(LIBRARY)
    keys = BlockKeys(shop.space).of_blocks(architecture)
    facts = {key.id: shop.keep_block(key, library)[0].record.facts for key in keys if key}

    def trained(changes: dict[str, Any], seed: int) -> dict[str, float]:
        began = time.process_time()
        run = shop.convert(architecture, seed, recipe.model_copy(update=changes), library=library)
        evaluation = result_of(run).evaluation
        return {
            "validation": evaluation.metrics[shop.space.metric],
            "macs": evaluation.train_macs_spent,
            "core_seconds": time.process_time() - began,
        }

    full = {"epochs": float(cell.epochs)}
    return {
        **asdict(cell),
        **described(architecture, shop.costs.of(architecture).macs),
        "choices": architecture.to_json(),
        "errors": [0.0 if key is None else facts[key.id].residual for key in keys],
        "block_macs": {id_: known.macs for id_, known in facts.items()},
        "rungs": {name: trained(changes, RUNG_SEED) for name, changes in RUNGS.items()},
        "full": [trained(full, seed) for seed in FULL_SEEDS],
    }
