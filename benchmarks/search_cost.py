"""What a search costs, against training candidates from scratch or by distillation.

    python -m benchmarks.search_cost                          tune, run what is missing, report
    python -m benchmarks.search_cost --regime same_data --method ours --seeds 1 --recipe epochs=1
    python -m benchmarks.search_cost --tau                    cheap rungs against full training
    python -m benchmarks.search_cost --report                 figures, table, plots of what is there

A cell is one whole search: one method in one regime with one seed. Every cell is written to
results/search_cost_cells.jsonl as it ends, every architecture of --tau to search_cost_tau.jsonl, so
that the tables fill over several runs; delete a line to run it again.

Two regimes on search_spaces/fashion_resnet.py: `same_data`, the guide trained on the candidates'
4,000 images (16 epochs); `pretrained`, the guide trained on all 55,000 (6 epochs), candidates given
a tenth, 5,500. Sizes were chosen for two CPU cores and about four hours in all: a candidate from
scratch takes about 0.9 ms an image and epoch and 0.6 s a look at the 5,000 validation images, so 34
and 45 s with 8 epochs, a search of 40 about 25 minutes; 15,000 images would take three times that.
Give --images and --epochs (from scratch) for others; cells hold them.

Methods:
    scratch          Ray Tune, OptunaSearch (TPE), every candidate trained from scratch
    scratch_rungs    the same settings and TPE, candidates that fall behind stopped by our rungs
    kd               as scratch, taught by the guide's logits
    ours_no_library  our sampler, recipe and rungs, every candidate converted by itself
    ours             our sampler, recipe and rungs, blocks from the library
    ours_before      its cells from before batches were small; never run again
Of scratch and kd, learning rate, batch size, warm-up and the weight of the guide's logits are tuned
on a few architectures with a seed of their own, on validation. Our recipe is not tuned: blocks of
the library (sequential, regression: the best in docs/evidence/conversion.md), a short settling in
batches of 16, then as many epochs as from scratch, in batches of 32 with mostly the guide's logits,
at the default learning rate; rungs stop candidates that fall behind. --recipe changes it, and only
cells with the recipe that is asked for are reported.

Charged: all that trains, alignment, blocks of the library, recalibration, the guide's activations
and logits (once a search). Not charged: scores, similarities, least squares, and the guide's own
training, which is told apart, since users have a guide. Core-seconds are processor time of the
processes that evaluate.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from benchmarks import cells as cells_file
from benchmarks import search_cost_report as report
from benchmarks.record import RESULTS, commit
from benchmarks.search_cost_regimes import (
    REGIMES,
    ROOT,
    Regime,
    guide_facts,
    guide_work,
    prepared,
    spread_over,
)
from benchmarks.search_cost_tau import RECIPE as TAU_RECIPE
from benchmarks.search_cost_tau import RUNGS, TauCell, run_tau
from nas_theseus.costs.table import CostTable
from nas_theseus.values.ids import canonical_json
from nas_theseus.values.recipe import Recipe, changed

CELLS = RESULTS / "search_cost_cells.jsonl"
TAU = RESULTS / "search_cost_tau.jsonl"

SEEDS = (0, 1, 2)
TUNING_SEED = 100
TUNED_ON = 4
RATES = (3e-3, 6e-3, 1.2e-2)
# The grid goes on by factors of 2 while the best rate lies at its edge, up to these.
RATES_WITHIN = (3e-4, 1e-1)
BATCHES = (128, 32)
# Tried one by one at the best rate and batch size: the weight of the guide's logits, in `kd`, and
# the share of the steps in which the rate rises.
WEIGHTS, WARMUPS = (0.5, 0.9), (0.2, 0.05)

BASELINES = ("scratch", "kd")
OURS = ("ours_no_library", "ours")
# Cells from before batches were small, to compare with; not run again.
EARLIER = "ours_before"
# Takes the settings that scratch was tuned to.
STOPPED = "scratch_rungs"
METHODS = ("scratch", STOPPED, "kd", EARLIER, *OURS)
BEFORE = Recipe(epochs=8, polish_steps=10)
RATES_BEFORE = {"same_data": 0.024, "pretrained": 0.006}
RECIPE = Recipe(epochs=8, batch_size=32, warmup=0.05, distill=0.9, settle_epochs=0.25)
SECOND_TRIALS = 10
TAU_ARCHITECTURES, TAU_REGIME = 40, "same_data"


@dataclass(frozen=True, order=True)
class Cell:
    """What one run is; with the tuning seed, `trials` architectures trained, no search.

    Attributes:
        epochs: of a candidate from scratch.
        recipe: of the candidates, as canonical JSON.
    """

    regime: str
    method: str
    seed: int
    trials: int
    images: int
    epochs: int
    recipe: str

    @property
    def sizes(self) -> Regime:
        return replace(REGIMES[self.regime], images=self.images, epochs=self.epochs)

    @property
    def settings(self) -> Recipe:
        return Recipe.model_validate_json(self.recipe)

    def __str__(self) -> str:
        """For people."""
        tuned = (
            f", batches of {self.settings.batch_size}, rate {self.settings.learning_rate:g}, "
            f"warm-up {self.settings.warmup:g}, weight {self.settings.distill:g}"
            if self.seed == TUNING_SEED
            else ""
        )
        return f"{self.regime}, {self.method}, seed {self.seed}{tuned}"


@dataclass(frozen=True)
class Tuned:
    """The settings of a baseline that are tuned; see `Recipe`."""

    learning_rate: float
    batch_size: int
    distill: float
    warmup: float


@dataclass(frozen=True)
class Plan:
    """What is asked for: sizes, and our recipe.

    Attributes:
        images, epochs: None for the regime's own.
    """

    trials: int
    images: int | None
    epochs: int | None
    recipe: Recipe

    def cell(self, regime: str, method: str, seed: int, recipe: Recipe) -> Cell:
        own = REGIMES[regime]
        trials = TUNED_ON if seed == TUNING_SEED else self.trials
        return Cell(
            regime,
            method,
            seed,
            trials,
            self.images or own.images,
            self.epochs or own.epochs,
            canonical_json(recipe.model_dump()),
        )

    def baseline(self, regime: str, method: str, seed: int, tuned: Tuned) -> Cell:
        """A cell of scratch or kd."""
        epochs = self.epochs or REGIMES[regime].epochs
        schedule = "scratch" if method == STOPPED else method
        recipe = Recipe.model_validate({"schedule": schedule, "epochs": epochs, **asdict(tuned)})
        return self.cell(regime, method, seed, recipe)

    def tau(self, regime: str) -> list[TauCell]:
        """The cells of τ, ends and middle of the space first."""
        own, count = REGIMES[regime], TAU_ARCHITECTURES
        recipe = canonical_json(TAU_RECIPE.model_dump())
        return [
            TauCell(
                regime, index, count, self.images or own.images, self.epochs or own.epochs, recipe
            )
            for index in sorted(range(count), key=lambda i: (f"{i:06b}"[::-1], i))
        ]

    def ours(self, regime: str, method: str, seed: int) -> Cell:
        """A cell of our search."""
        with_library = method != "ours_no_library"
        changes: dict[str, Any] = {"library": with_library}
        # Without a library nothing is polished: alignment is sequential from the start.
        changes |= {} if with_library else {"polish_steps": 0}
        return self.cell(regime, method, seed, self.recipe.model_copy(update=changes))


@lru_cache
def of_guide(sizes: Regime) -> dict[str, float]:
    """The guide's facts; it is trained if it was not yet."""
    return guide_facts(prepared(sizes, Recipe()))


def run_cell(cell: Cell, guide: Mapping[str, float]) -> dict[str, Any]:
    """One cell, in a process of its own.

    Args:
        guide: its facts.
    """
    from benchmarks import search_cost_baselines, search_cost_ours

    began = time.perf_counter()
    regime, recipe = cell.sizes, cell.settings
    space = prepared(regime, recipe)
    work = guide_work(space, CostTable(space))
    facts = {"commit": commit(), **guide, **work}
    more: dict[str, Any] = {}
    if cell.seed == TUNING_SEED:
        chosen = spread_over(space, cell.trials, TUNING_SEED)
        rows = search_cost_baselines.tuned_on(regime, recipe, chosen, cell.seed)
        more["validation"] = sum(row["validation"] for row in rows) / len(rows)
        return {**asdict(cell), **facts, **more, "trajectory": rows}
    with tempfile.TemporaryDirectory(prefix="search-cost-") as name:
        folder = Path(name)
        if cell.method in BASELINES:
            rows = search_cost_baselines.search(regime, recipe, cell.seed, cell.trials, folder)
            macs = seconds = 0
            for row in rows:
                row["train_macs"] = macs = macs + row.pop("own_macs")
                row["core_seconds"] = seconds = seconds + row.pop("own_seconds")
        else:
            quality = guide["guide_validation"]
            found = search_cost_ours.search(
                regime,
                recipe,
                cell.seed,
                cell.trials,
                folder,
                quality,
                sampler="tpe" if cell.method == STOPPED else "theseus",
            )
            rows, more["blocks"] = found.rows, found.blocks
            if recipe.takes_blocks:
                more["further"] = search_cost_ours.further_budget(
                    regime, recipe, cell.seed, folder, quality, found.evaluations
                )
            if recipe.takes_blocks and cell.seed == SEEDS[0]:
                trials = min(SECOND_TRIALS, cell.trials)
                other = search_cost_ours.search(
                    regime, recipe, cell.seed + TUNING_SEED, trials, folder, quality, name="second"
                )
                again = len(other.converted & found.converted)
                more["second"] = {**other.blocks, "trials": trials, "converted_again": again}
    for row in rows:
        row["train_macs"] += work["activation_macs"] + work["logit_macs"]
    return {
        **asdict(cell),
        **facts,
        **more,
        "wall_seconds": time.perf_counter() - began,
        "trajectory": rows,
    }


def finished() -> dict[Cell, dict[str, Any]]:
    """The searches, and runs of tuning, that are there."""
    return cells_file.finished(CELLS, Cell)


def ranked() -> dict[TauCell, dict[str, Any]]:
    """The architectures of --tau that are there."""
    return cells_file.finished(TAU, TauCell)


def _work(cell: Cell | TauCell) -> Callable[[], dict[str, Any]]:
    """What a process does for a cell; its guide's training is known before."""
    guide = of_guide(cell.sizes)
    if isinstance(cell, TauCell):
        return partial(run_tau, cell, ranked().get(cell))
    return partial(run_cell, cell, guide)


def keep(cell: Cell | TauCell, row: dict[str, Any]) -> str:
    """Write a row down; what is said of it."""
    cells_file.append(TAU if isinstance(cell, TauCell) else CELLS, row)
    return report.told(row)


def run_missing(cells: Iterable[Cell | TauCell], jobs: int, deadline: float) -> bool:
    """Run the cells that are not there, each kept as it ends.

    Args:
        cells: all of one kind.

    Returns:
        Whether all are there now: what comes next is chosen by them.
    """
    whole = {cell for cell, row in ranked().items() if row["rungs"].keys() >= RUNGS.keys()}
    done = {*finished(), *whole}
    missing = [cell for cell in cells if cell not in done]
    # Ray is begun and ended in a process only once.
    once = any(isinstance(cell, Cell) for cell in missing)
    return cells_file.run_cells(missing, _work, keep, jobs, deadline, threads=None, once=once)


def tuned_as(method: str) -> str:
    """The method whose tuning one takes."""
    return method if method in BASELINES else "scratch"


def tuning(plan: Plan, regime: str, method: str) -> list[Cell]:
    """What tuning needs next: learning rates for each batch size, then the other settings."""
    weight, *weights = WEIGHTS if method == "kd" else (0.0,)
    grids = [rates_of(plan, regime, method, batch, weight) for batch in BATCHES]
    cells = [cell for grid, _ in grids for cell in grid]
    if not all(ended for _, ended in grids):
        return cells
    best = Tuned(**{f: getattr(best_of(cells).settings, f) for f in Tuned.__annotations__})
    others = [replace(best, distill=one) for one in weights]
    others += [replace(best, warmup=one) for one in WARMUPS[1:]]
    return cells + [plan.baseline(regime, method, TUNING_SEED, one) for one in others]


def rates_of(
    plan: Plan, regime: str, method: str, batch: int, weight: float
) -> tuple[list[Cell], bool]:
    """The cells of learning rates for a batch size, and whether no other is wanted."""

    def cell(rate: float) -> Cell:
        return plan.baseline(regime, method, TUNING_SEED, Tuned(rate, batch, weight, WARMUPS[0]))

    rates, done = list(RATES), finished()
    while all(cell(rate) in done for rate in rates):
        best = max(rates, key=lambda rate: done[cell(rate)]["validation"])
        beyond = {rates[0]: rates[0] / 2, rates[-1]: rates[-1] * 2}.get(best)
        if beyond is None or not RATES_WITHIN[0] <= beyond <= RATES_WITHIN[1]:
            return [cell(rate) for rate in rates], True
        rates = sorted([*rates, beyond])
    return [cell(rate) for rate in rates], False


def best_of(cells: Sequence[Cell]) -> Cell:
    """The best on validation of the cells that are there."""
    done = finished()
    return max((c for c in cells if c in done), key=lambda cell: done[cell]["validation"])


def tuned(plan: Plan, regime: str, method: str, seed: int) -> Cell:
    """A search's cell with the settings that tuning chose."""
    best = best_of(tuning(plan, regime, tuned_as(method)))
    found = {name: getattr(best.settings, name) for name in Tuned.__annotations__}
    if method == EARLIER:
        recipe = BEFORE.model_copy(update={"learning_rate": RATES_BEFORE[regime]})
        return replace(plan, recipe=recipe).ours(regime, "ours", seed)
    if method in OURS:
        return plan.ours(regime, method, seed)
    return plan.baseline(regime, method, seed, Tuned(**found))


def searches(
    plan: Plan,
    regime: str,
    methods: Sequence[str],
    seeds: Sequence[int],
    tuned_so_far: Callable[[Iterable[bool]], bool] = all,
) -> list[Cell]:
    """The cells of a regime, as far as tuning allows, all methods of one seed before the next.

    Args:
        tuned_so_far: whether a method is ready, of which cells of its tuning are there.
    """
    done = finished()
    ready = [
        method
        for method in methods
        if tuned_so_far(cell in done for cell in tuning(plan, regime, tuned_as(method)))
    ]
    return [tuned(plan, regime, method, seed) for seed in seeds for method in ready]


def fill(
    plan: Plan,
    regimes: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    jobs: int,
    deadline: float,
) -> None:
    """Run the cells that are missing until all are there or time is over."""
    for regime in regimes:
        for method in dict.fromkeys(tuned_as(m) for m in methods):
            while any(cell not in finished() for cell in tuning(plan, regime, method)):
                if not run_missing(tuning(plan, regime, method), jobs, deadline):
                    return
        if not run_missing(searches(plan, regime, methods, seeds), jobs, deadline):
            return


def write_report(plan: Plan) -> None:
    """Figures, table and plots of the cells that are there and as they are asked for."""
    done, rungs = finished(), ranked()
    asked: dict[str, dict[str, list[dict[str, Any]]]] = {}
    tried: dict[str, list[str]] = {}
    for regime in REGIMES:
        asked[regime] = {}
        for method in METHODS:
            cells = searches(plan, regime, [method], SEEDS, any)
            asked[regime][method] = [done[cell] for cell in cells if cell in done]
        tried[regime] = [
            f"- {cell}: {done[cell]['validation']:.4f}"
            for method in BASELINES
            for cell in sorted(tuning(plan, regime, method), key=lambda c: c.settings.learning_rate)
            if cell in done
        ]
    tau = [rungs[cell] for cell in plan.tau(TAU_REGIME) if cell in rungs]
    rows = [*done.values(), *rungs.values()]
    report.write(asked, tried, tau, rows, [*SEEDS, TUNING_SEED])


def main() -> None:
    """Run what the arguments ask for, then write figures, table and plots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--regime", choices=REGIMES, action="append", help="all by default")
    parser.add_argument("--method", choices=METHODS, action="append", help="all by default")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="only the first so many")
    parser.add_argument("--trials", type=int, default=40, help="architectures of a search")
    parser.add_argument("--images", type=int, help="that candidates train on; the regime's")
    parser.add_argument("--epochs", type=int, help="of a candidate from scratch; the regime's")
    parser.add_argument("--recipe", nargs="+", default=[], metavar="NAME=VALUE", help="ours")
    parser.add_argument("--tau", action="store_true", help="cheap rungs against full training")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells at a time")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start none after")
    options = parser.parse_args()
    recipe = changed(RECIPE, options.recipe)
    plan = Plan(options.trials, options.images, options.epochs, recipe)
    regimes = options.regime or list(REGIMES)
    methods = options.method or [method for method in METHODS if method != EARLIER]
    # For the processes to come: one thread each, and the package that this file stands beside.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    deadline = time.time() + 60 * options.minutes
    if not options.report and options.tau:
        for regime in options.regime or [TAU_REGIME]:
            run_missing(plan.tau(regime), options.jobs, deadline)
    elif not options.report:
        fill(plan, regimes, methods, SEEDS[: options.seeds], options.jobs, deadline)
    write_report(plan)


if __name__ == "__main__":
    main()
