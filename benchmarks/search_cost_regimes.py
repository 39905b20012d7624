"""What every method of `benchmarks.search_cost` searches: the space in two regimes, its guide."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from nas_theseus.candidate.workshop import Workshop
from nas_theseus.conversion.guide_training import prepare_guide
from nas_theseus.costs.table import CostTable
from nas_theseus.space.genome import Genome
from nas_theseus.space.load import load_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.tasks import fashion_mnist
from nas_theseus.tasks.score import score
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
SPACE = ROOT / "search_spaces" / "fashion_resnet.py"
GUIDES = ROOT / "theseus" / "guides"
CPU = torch.device("cpu")

Found = TypeVar("Found")


@dataclass(frozen=True)
class Regime:
    """Who gets which data.

    Attributes:
        images: that candidates train on.
        epochs: of a candidate that is trained from scratch.
        guide_epochs: of the guide.
        guide_sees_all: the guide is trained on all training images instead of the candidates'.
    """

    images: int
    epochs: int
    guide_epochs: int
    guide_sees_all: bool


REGIMES = {
    "same_data": Regime(4_000, 8, 16, guide_sees_all=False),
    "pretrained": Regime(5_500, 8, 6, guide_sees_all=True),
}


def space_of(regime: Regime, recipe: Recipe, limits: tuple[str, ...] = ()) -> SearchSpace:
    """The space with the regime's data; its guide is not trained yet."""
    return replace(
        load_space(SPACE),
        task=fashion_mnist(train_images=regime.images),
        guide_task=fashion_mnist() if regime.guide_sees_all else None,
        guide_training=Recipe(epochs=regime.guide_epochs, distill=0),
        recipe=recipe,
        constraints=limits,
    )


def prepared(regime: Regime, recipe: Recipe) -> SearchSpace:
    """The space with its guide trained, by this process or one before it."""
    space = space_of(regime, recipe)
    prepare_guide(space.guide, space.learnt_from, space.guide_training, GUIDES, CPU)
    return space


def guide_facts(space: SearchSpace) -> dict[str, float]:
    """The guide's quality and MACs, and what its training took."""
    macs = CostTable(space).of_parts().macs
    epochs = space.guide_training.epochs if space.guide_training is not None else 0
    return {
        "guide_validation": score(space.guide, space.task, "validation"),
        "guide_test": score(space.guide, space.task, "test"),
        "guide_macs": macs,
        "guide_training_macs": 3 * epochs * space.learnt_from.size("train") * macs,
    }


def guide_work(space: SearchSpace, costs: CostTable) -> dict[str, int]:
    """MACs of what the guide computes once for a search: activations, logits; 0 where not used."""
    recipe, guide = space.recipe, costs.of_parts().macs
    images = space.task.size("train")
    aligned = 0 if recipe.is_control else min(recipe.align_examples, images)
    scored = recipe.divergence_examples if recipe.takes_blocks else 0
    return {
        "activation_macs": (aligned + scored) * guide,
        "logit_macs": images * guide if recipe.taught else 0,
    }


def spread_over(space: SearchSpace, count: int, seed: int) -> list[Architecture]:
    """Random architectures at even steps of log MACs, cheapest first."""
    genome, costs = Genome(space), CostTable(space)
    rng = np.random.default_rng(derive_seed("spread over the space", seed))
    drawn = {
        genome.decode(
            {gene: values[rng.integers(len(values))] for gene, values in genome.genes.items()}
        )
        for _ in range(50 * count)
    }
    macs = {one: math.log(costs.of(one).macs) for one in drawn}
    # Ends in the thin tails of chance would be single odd nets.
    low, high = np.quantile(list(macs.values()), [0.01, 0.99])
    chosen: dict[Architecture, None] = {}
    for wanted in np.linspace(low, high, count):
        left = (one for one in sorted(macs, key=lambda a: a.id) if one not in chosen)
        chosen[min(left, key=lambda one: abs(macs[one] - wanted))] = None
    return sorted(chosen, key=macs.__getitem__)


def described(architecture: Architecture, macs: int) -> dict[str, Any]:
    """An architecture as cells hold it."""
    return {
        "architecture": architecture.id,
        "pairing": architecture.pairing,
        "blocks": architecture.blocks,
        "macs": macs,
    }


def workshop(space: SearchSpace) -> Workshop:
    """For candidates of this process, on one thread."""
    torch.set_num_threads(1)
    return Workshop(space, CPU)
