"""How well samplers find the front of fashion_resnet's space when quality is made up, not trained.

    python -m benchmarks.sampler [--repeats 20] [--proposals 40]

Each repeat is another world. Every guide part has an importance, every block choice loses a share
of what its span matters: less, the more it costs, with log-normal luck; neighbours add or take a
little; losses saturate; what is told has noise of 0.6 points. Block errors, where a sampler is
given them, are the losses times log-normal noise (their rank correlation with losses is told).
Hypervolume is of the true quality of the nets that the told quality puts on the front, over log10
MACs, from guide MACs and guide accuracy less ten points, as share of the best that is known: the
exact front of the world without pairs, judged with them, and all that was proposed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from benchmarks.record import write_record
from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.pareto import front_of, hypervolume_of
from nas_theseus.estimate.space_graph import additive_space
from nas_theseus.estimate.thompson import Proposer
from nas_theseus.services.optuna.study import Problem, Study, StudySettings, open_study
from nas_theseus.space.genome import Genome
from nas_theseus.space.load import load_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture, BlockChoice
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.outcomes import Evaluation

SPACE = Path(__file__).resolve().parents[1] / "search_spaces" / "fashion_resnet.py"
GUIDE, NOISE, WORST_LOSS = 0.92, 0.006, 0.4
SAMPLERS: dict[str, str] = {
    "theseus, block errors": "theseus",
    "theseus": "theseus",
    "tpe": "tpe",
    "gp": "gp",
    "nsga2": "nsga2",
    "random": "random",
}


class World:
    """One made-up truth about every architecture of the space."""

    def __init__(self, space: SearchSpace, costs: CostTable, seed: int) -> None:
        self.seed, self._costs, self._goals = seed, costs, space.goals
        self.reference = {"val_accuracy": GUIDE - 0.1, "macs": float(costs.of_parts().macs)}
        rng = np.random.default_rng(seed)
        parts = len(space.guide)
        importance = rng.dirichlet(np.full(parts, 1.5)) * rng.uniform(0.1, 0.3)
        kind = {name: rng.lognormal(0, 0.4) for name in space.families}
        self.graph = additive_space(space, costs, ["macs"])
        self.loss: dict[BlockChoice, float] = {}
        for option in self.graph.options:
            choice = option.choice
            if space.families[choice.block].keeps:
                self.loss[choice] = 0.0
                continue
            whole = sum(costs.part_macs[choice.span.start : choice.span.stop])
            share = max(option.costs[0], 1) / whole
            matters = float(importance[choice.span.start : choice.span.stop].sum())
            hard = 0.15 + 0.2 * max(0.0, -math.log10(share))
            luck = kind[choice.block] * rng.lognormal(0, 0.4)
            self.loss[choice] = matters * hard * luck - 0.003 * rng.random()
        noise = {choice: rng.lognormal(0, 1.0) for choice in self.loss}
        self.errors = {
            choice: (max(loss, 0.0) + 0.002) * noise[choice] for choice, loss in self.loss.items()
        }

    def quality(self, architecture: Architecture) -> float:
        """True accuracy."""
        loss = sum(self.loss[choice] for choice in architecture.choices)
        for before, choice in itertools.pairwise(architecture.choices):
            size = math.sqrt(max(self.loss[before], 0.0) * max(self.loss[choice], 0.0))
            draw = np.random.default_rng(derive_seed(self.seed, before, choice)).standard_normal()
            loss += 0.5 * size * draw
        return GUIDE - WORST_LOSS * (1 - math.exp(-loss / WORST_LOSS))

    def told(self, architecture: Architecture, true: bool = False) -> Evaluation:
        """What a trial tells, the same each time."""
        noise = np.random.default_rng(derive_seed(self.seed, architecture.id)).standard_normal()
        quality = self.quality(architecture) + (0 if true else NOISE * float(noise))
        cost = self._costs.of(architecture)
        return Evaluation(architecture, "r", 0, {"val_accuracy": quality}, cost, 0, 0.0)

    def volume(self, architectures: Iterable[Architecture]) -> float:
        """True hypervolume."""
        true = [self.told(architecture, true=True) for architecture in architectures]
        return hypervolume_of(true, self._goals, self.reference)

    def found(self, told: list[Evaluation]) -> float:
        """True hypervolume of what the told quality puts on the front."""
        return self.volume(one.architecture for one in front_of(told, self._goals))

    def known(self) -> list[Architecture]:
        """The exact front of the world without pairs, five layers deep."""
        losses = [self.loss[option.choice] for option in self.graph.options]
        return [solution.architecture for solution in self.graph.front(losses, layers=5)]


def search(
    space: SearchSpace,
    costs: CostTable,
    world: World,
    name: str,
    proposals: int,
    see: Callable[[Study], None] = lambda study: None,
) -> tuple[list[Evaluation], float]:
    """What one sampler proposed, as it was told, and seconds a proposal.

    Args:
        see: may change which trials the sampler is shown.
    """
    guide = space.guide_architecture()
    results: dict[str, Evaluation] = {}
    proposer = Proposer(space, costs, world.reference)
    if name == "theseus, block errors":
        proposer = Proposer(space, costs, world.reference, lambda: world.errors)
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        sampler = SAMPLERS[name]
        study = open_study(
            StudySettings("benchmark", Path(folder) / "journal", sampler, world.seed),
            Problem(Genome(space), space.goals, space.limits, costs.of, proposer=proposer),
            lambda architecture: results.get(architecture.id),
            lambda: [guide] if guide else [],
        )
        see(study)
        for _ in range(proposals):
            began = time.perf_counter()
            proposal = study.propose()
            seconds += time.perf_counter() - began
            if proposal is None:
                break
            result = results[proposal.architecture.id] = world.told(proposal.architecture)
            study.report(proposal, result)
    return list(results.values()), seconds / max(1, len(results))


def cells(
    space: SearchSpace, costs: CostTable, seed: int, proposals: int, names: list[str]
) -> list[dict[str, Any]]:
    """Every sampler in one world."""
    world = World(space, costs, seed)
    found = {name: search(space, costs, world, name, proposals) for name in names}
    proposed = (one.architecture for told, _ in found.values() for one in told)
    best = world.volume([*world.known(), *proposed])
    choices = list(world.loss)
    rank = spearmanr([world.loss[c] for c in choices], [world.errors[c] for c in choices])
    return [
        {
            "sampler": name,
            "seed": seed,
            "evaluated": len(told),
            "seconds_a_proposal": seconds,
            "errors_rank_correlation": float(rank.statistic),
            "best": best,
            "hypervolume": world.found(told) / best,
            "half_way": world.found(told[: proposals // 2]) / best,
        }
        for name, (told, seconds) in found.items()
    ]


def main() -> None:
    """Measure, print a table and write results/sampler.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--proposals", type=int, default=40)
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=list(SAMPLERS))
    arguments = parser.parse_args()
    space = load_space(SPACE)
    costs = CostTable(space)
    seeds = range(arguments.repeats)
    found = []
    for seed in seeds:
        found += cells(space, costs, seed, arguments.proposals, arguments.samplers)
        print(
            *(f"{c['sampler']}: {c['hypervolume']:.3f}" for c in found if c["seed"] == seed),
            sep="  ",
            flush=True,
        )
    table = Table("sampler", "hypervolume", "worst", "half way", "seconds a proposal")
    figures: dict[str, float | int | None] = {}
    for name in arguments.samplers:
        own = [cell for cell in found if cell["sampler"] == name]
        values = [cell["hypervolume"] for cell in own]
        half = statistics.mean(cell["half_way"] for cell in own)
        seconds = statistics.mean(cell["seconds_a_proposal"] for cell in own)
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        table.add_row(
            name,
            f"{statistics.mean(values):.3f} ± {error:.3f}",
            f"{min(values):.3f}",
            f"{half:.3f}",
            f"{seconds:.3f}",
        )
        key = name.replace(", ", "_").replace(" ", "_")
        figures[f"{key}_hypervolume"] = statistics.mean(values)
        figures[f"{key}_half_way"] = half
        figures[f"{key}_seconds_a_proposal"] = seconds
    Console().print(table)
    notes = {
        "hypervolume": "share of the best that is known, mean over worlds; half way is after half "
        "of the proposals",
        "seconds": "proposals and what the study writes, on a machine that did other work besides",
    }
    write_record("sampler", figures, found, list(seeds), notes, ("torch", "optuna", "moocore"))


if __name__ == "__main__":
    main()
