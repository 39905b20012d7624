"""What it costs that samplers see the front and the latest trials only (`services/window.py`).

    python -m benchmarks.sampler_window [--repeats 2] [--tpe 2000] [--theseus 400]

The worlds are those of `benchmarks.sampler`; each sampler searches each of them twice, with its
window and without. Hypervolume is of the true quality of the nets that the told quality puts on the
front, as share of the best that the two have found together.
"""

from __future__ import annotations

import argparse
import os
import statistics
from typing import Any

from benchmarks.record import write_record
from benchmarks.sampler import GUIDE, SPACE, World, search
from nas_theseus.costs.table import CostTable
from nas_theseus.pareto import front_of, hypervolume_of
from nas_theseus.results import Evaluation
from nas_theseus.services.window import LATEST
from nas_theseus.settings import Sampler
from nas_theseus.space import SearchSpace, load_space


def both(
    space: SearchSpace, costs: CostTable, seed: int, name: Sampler, proposals: int
) -> dict[str, Any]:
    """One sampler in one world, with its window and without."""
    world = World(space, costs, seed)
    reference = {"val_accuracy": GUIDE - 0.1, "macs": float(costs.of_parts().macs)}

    def true(evaluations: list[Evaluation]) -> list[Evaluation]:
        return [world.told(one.architecture, true=True) for one in evaluations]

    def volume(evaluations: list[Evaluation]) -> float:
        return hypervolume_of(true(front_of(evaluations, space.goals)), space.goals, reference)

    found = {
        windowed: search(space, costs, world, name, proposals, reference, windowed=windowed)
        for windowed in (True, False)
    }
    best = hypervolume_of(
        [one for told, _ in found.values() for one in true(told)], space.goals, reference
    )
    return {
        "sampler": name, "seed": seed, "proposals": proposals, "window": LATEST[name], "best": best,
        **{
            f"{figure}_{'windowed' if windowed else 'whole'}": value
            for windowed, (told, seconds) in found.items()
            for figure, value in (("hypervolume", volume(told) / best), ("seconds", seconds))
        },
    }  # fmt: skip


def main() -> None:
    """Measure, print each world and write results/sampler_window.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tpe", type=int, default=2000, help="proposals")
    parser.add_argument("--theseus", type=int, default=400, help="proposals")
    arguments = parser.parse_args()
    space = load_space(SPACE)
    costs = CostTable(space)
    cells: list[dict[str, Any]] = []
    figures: dict[str, float | int | None] = {}
    given: tuple[tuple[Sampler, int], ...] = (
        ("tpe", arguments.tpe), ("theseus", arguments.theseus),
    )  # fmt: skip
    for name, proposals in given:
        own = []
        for seed in range(arguments.repeats):
            own.append({**both(space, costs, seed, name, proposals), "load": os.getloadavg()[0]})
            print(own[-1], flush=True)
        for figure in ("hypervolume", "seconds"):
            for kind in ("windowed", "whole"):
                mean = statistics.mean(cell[f"{figure}_{kind}"] for cell in own)
                figures[f"{name}_{figure}_{kind}"] = mean
        cells += own
    notes = {
        "hypervolume": "share of the best that both found together, mean over worlds",
        "seconds": "of a proposal, mean; other work ran besides where a cell's load says so",
    }
    write_record(
        "sampler_window", figures, cells, list(range(arguments.repeats)), notes,
        ("torch", "optuna", "moocore"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
