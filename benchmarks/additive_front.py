"""How long the exact front of an additive estimate takes: 48 parts, 16 blocks a span, spans to 4.

    python -m benchmarks.additive_front

Costs are integers of real networks' size: a part has 2 to 40 million MACs, a block between 2 % and
all of what it stands for. Errors fall with the logarithm of that share; the less noise on them,
the more blocks are worth having and the larger the label sets.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import write_record
from nas_theseus.estimate.front import AdditiveSpace, Option, Solution, Solutions
from nas_theseus.values.architecture import BlockChoice, Span
from nas_theseus.values.goals import Constraint

PARTS, BLOCKS, LONGEST = 48, 16, 4
SEEDS = (0, 1, 2)
NOISES = (0.5, 0.1, 0.0)


def part_macs(seed: int) -> NDArray[np.int64]:
    """MACs of the guide's parts."""
    return np.random.default_rng(seed).integers(2_000_000, 40_000_000, PARTS)


def options_and_errors(
    seed: int, noise: float, costs: int
) -> tuple[list[Option], NDArray[np.float64]]:
    """A space's options and their errors; `noise` is the standard deviation of log error."""
    guide, rng = part_macs(seed), np.random.default_rng([seed, 1])
    options, errors = [], []
    for start in range(PARTS):
        for stop in range(start + 1, min(start + LONGEST, PARTS) + 1):
            for block in range(BLOCKS):
                share = float(np.exp(rng.uniform(np.log(0.02), 0)))
                macs = int(guide[start:stop].sum() * share)
                params = int(macs / rng.uniform(20, 200))
                choice = BlockChoice(Span(start, stop), f"block{block}")
                options.append(Option(start, stop, choice, (macs, params)[:costs]))
                length = (stop - start) ** 1.3
                errors.append(length * (0.1 - np.log(share)) * rng.lognormal(0, noise))
    return options, np.array(errors)


def cell(seed: int, noise: float, question: str) -> dict[str, Any]:
    """One question to one space, with the making of the space."""
    costs = 2 if question == "two costs" else 1
    options, errors = options_and_errors(seed, noise, costs)
    began, busy = time.perf_counter(), time.process_time()
    space = AdditiveSpace(options, 0, PARTS, ("macs", "params")[:costs])
    budget = [Constraint("macs", "<=", 0.25 * float(part_macs(seed).sum()))]
    solved: Sequence[Solution] | Solutions
    if question == "five layers":
        solved = space.front(errors, layers=5)
    elif question == "ten best in a budget":
        solved = space.best(errors, 10, budget)
    elif question == "four diverse in a budget":
        solved = space.diverse(errors, 4, PARTS // 4, budget)
    else:
        solved = space.front(errors)
    return {
        "question": question,
        "seed": seed,
        "noise": noise,
        "options": len(options),
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - busy,
        "solutions": len(solved),
        "epsilon": solved.epsilon if isinstance(solved, Solutions) else None,
    }


def main() -> None:
    """Measure and write results/additive_front.json."""
    cells = []
    questions = (
        "one cost",
        "five layers",
        "ten best in a budget",
        "two costs",
        "four diverse in a budget",
    )
    for question in questions:
        for noise in NOISES if question == "one cost" else NOISES[:2]:
            for seed in SEEDS if question == "one cost" else SEEDS[:1]:
                cells.append(cell(seed, noise, question))
                print(cells[-1], flush=True)
    one = [c for c in cells if c["question"] == "one cost"]
    figures: dict[str, float | int | None] = {
        "one_cost_seconds_worst": max(c["seconds"] for c in one),
        "one_cost_cpu_seconds_worst": max(c["cpu_seconds"] for c in one),
        "one_cost_seconds_median": statistics.median(c["seconds"] for c in one),
        "one_cost_front_largest": max(c["solutions"] for c in one),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    for question in questions[1:]:
        name = question.replace(" ", "_") + "_seconds_worst"
        figures[name] = max(c["seconds"] for c in cells if c["question"] == question)
    notes = {
        "one_cost_seconds_worst": "wall time on a machine that did other work besides; CPU time is "
        "what it takes alone",
        "two costs": "MACs and parameters, both compared to epsilon, which cells tell",
        "peak_memory_bytes": "of the whole benchmark, imports included",
    }
    print(
        figures, write_record("additive_front", figures, cells, SEEDS, notes, ("numpy", "moocore"))
    )


if __name__ == "__main__":
    main()
