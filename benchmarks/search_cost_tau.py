"""How well cheap rungs rank architectures that are then trained fully: one architecture a cell."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
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
    "settled: 0.125 epochs in batches of 8": {
        "epochs": 0.0,
        "settle_epochs": 0.125,
        "settle_batch_size": 8,
        **UNPOLISHED,
    },
    "0.25 epochs, not polished": {"epochs": 0.25, **UNPOLISHED},
    "0.5 epochs": {"epochs": 0.5},
    "1 epoch": {"epochs": 1.0},
    "2 epochs": {"epochs": 2.0},
}
# Rungs have a seed of their own, or they would share luck with one of the full trainings.
FULL_SEEDS, RUNG_SEED = (0, 1), 2
# The recipe of the full trainings, which later recipes do not change.
RECIPE = Recipe(epochs=2, polish_steps=10, library=True)
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


def run_tau(cell: TauCell, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All rungs and both full trainings of one architecture.

    Args:
        known: an earlier row, to which the rungs are added that it lacks.
    """
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

    rungs = {} if known is None else known["rungs"]
    rungs |= {
        name: trained(changes, RUNG_SEED) for name, changes in RUNGS.items() if name not in rungs
    }
    if known is not None:
        return {**known, "rungs": rungs}
    full = {"epochs": float(cell.epochs)}
    return {
        **asdict(cell),
        **described(architecture, shop.costs.of(architecture).macs),
        "choices": architecture.to_json(),
        "errors": [0.0 if key is None else facts[key.id].residual for key in keys],
        "block_macs": {id_: known.macs for id_, known in facts.items()},
        "rungs": rungs,
        "full": [trained(full, seed) for seed in FULL_SEEDS],
    }
