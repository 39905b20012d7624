"""Conversion against its controls at equal training compute: docs/evidence/conversion.md.

    python -m benchmarks.conversion --all               tune, run every cell that is missing, report
    python -m benchmarks.conversion --pair vit_to_mlp   only the cells of one pair
    python -m benchmarks.conversion --report            figures, table and plots from what is there

A cell is one method on one pair with one seed. Every cell is written to
results/conversion_cells.jsonl as it ends, so that the table fills over several runs; delete a line
to run its cell again.

Equal compute: a pair's budget is what training its target from scratch for `epochs` costs. Every
other method pays for alignment, recalibration, the guide's activations, logits and teaching, and
trains on the task for what is left. Not charged: similarities, least squares and their passes.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import cells as cells_file
from benchmarks import conversion_report as report
from benchmarks.conversion_pairs import PAIRS, Pair
from benchmarks.record import RESULTS, commit
from nas_theseus.candidate.candidate import Candidate
from nas_theseus.candidate.workshop import Workshop, result_of
from nas_theseus.conversion.alignment import Alignment, align
from nas_theseus.conversion.finetune import EpochLoss
from nas_theseus.conversion.guide_training import prepare_guide
from nas_theseus.conversion.similarity import similarity
from nas_theseus.conversion.stage import stages
from nas_theseus.conversion.target import assemble
from nas_theseus.conversion.training_macs import training_macs
from nas_theseus.costs import measure_latency
from nas_theseus.errors import ConversionError
from nas_theseus.space.load import load_space
from nas_theseus.tasks.score import score
from nas_theseus.values.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
CELLS = RESULTS / "conversion_cells.jsonl"
GUIDES = ROOT / "theseus" / "guides"

FIRST = next(iter(PAIRS))
SEEDS = (0, 1, 2)
TUNING_SEED = 100
RATES = (1.5e-3, 3e-3, 6e-3)
# The grid goes on by factors of 2 while the best rate lies at its edge, up to these.
RATES_WITHIN = (3e-4, 5e-2)

BASELINES: dict[str, dict[str, Any]] = {
    "scratch": {"schedule": "scratch"},
    "kd": {"schedule": "kd", "distill": 0.5},
    "naive": {"schedule": "naive"},
}
# What a conversion changes in the space's recipe.
CONVERSIONS: dict[str, dict[str, Any]] = {
    f"{schedule}-{similarity}": {"schedule": schedule, "similarity": similarity}
    for schedule, similarity in (
        ("sequential", "regression"),
        ("progressive", "cka"),
        ("sequential", "cka"),
        ("independent", "cka"),
        ("joint", "cka"),
        ("progressive", "dmnn"),
        ("progressive", "regression"),
    )
}
# It is tuned for all conversions.
TUNED = "sequential-regression"
# A second setting that is tuned at the best learning rate, beginning with the first value: the
# weight of the guide's logits, and the share of the budget that alignment may spend, which decides
# the steps of a stage; that share goes on by factors of 2 while the largest is best.
LARGEST_SHARE = 0.8
SECOND: dict[str, tuple[float, ...]] = {"kd": (0.5, 0.2, 0.9), TUNED: (0.1, 0.2)}
ABLATIONS: dict[str, dict[str, Any]] = {
    f"{method}, {what}": CONVERSIONS[method] | changes
    for method, what, changes in (
        (TUNED, "not recalibrated", {"recalibrate": False}),
        (TUNED, "reverse order", {"order": "reverse"}),
        (TUNED, "hybrids finetuned", {"hybrid_epochs": 0.1}),
        ("progressive-cka", "positions", {"similarity_options": {"examples": "positions"}}),
        ("progressive-cka", "maps not pooled", {"similarity_options": {"pool": 0}}),
        ("progressive-cka", "projected", {"similarity_options": {"pool": 0, "project": 512}}),
    )
}
UNTAUGHT = ", not distilled"
NOT_DISTILLED = {f"{m}{UNTAUGHT}": changes | {"distill": 0.0} for m, changes in CONVERSIONS.items()}
ABLATIONS[f"{TUNED}{UNTAUGHT}"] = NOT_DISTILLED[f"{TUNED}{UNTAUGHT}"]
# The settings of later: many small steps, in alignment too, no slow beginning, and labels hardly
# heeded. For images, since text is trained in small batches already.
SMALL = report.SMALL
_SMALL = {"batch_size": 16, "warmup": 0.05}
_SMALL_OURS = _SMALL | {"align_batch_size": 16}
TAUGHT_MORE = {"distill": 0.9}
SMALL_BASELINES: dict[str, dict[str, Any]] = {
    f"scratch{SMALL}": BASELINES["scratch"] | _SMALL,
    f"kd{SMALL}": BASELINES["kd"] | _SMALL,
    f"naive{SMALL}": BASELINES["naive"] | _SMALL | TAUGHT_MORE,
}
SMALL_CONVERSIONS: dict[str, dict[str, Any]] = {
    f"{TUNED}{SMALL}": CONVERSIONS[TUNED] | _SMALL_OURS | TAUGHT_MORE,
    f"{TUNED}{UNTAUGHT}{SMALL}": NOT_DISTILLED[f"{TUNED}{UNTAUGHT}"] | _SMALL_OURS,
}
CONTROLS = BASELINES | SMALL_BASELINES
METHODS = CONTROLS | CONVERSIONS | NOT_DISTILLED | ABLATIONS | SMALL_CONVERSIONS


@dataclass(frozen=True, order=True)
class Cell:
    """What one run is.

    Attributes:
        trained: whether the guide was trained.
        share: of the pair's budget.
        learning_rate: peak of task training.
        second: weight of the guide's logits (kd), share of the budget that alignment may spend
            (conversions); 0 for the others.
    """

    pair: str
    trained: bool
    method: str
    seed: int
    share: float
    learning_rate: float
    second: float


@lru_cache(maxsize=1)
def workshop(name: str, trained: bool) -> tuple[Workshop, dict[str, float]]:
    """The pair's workshop, its guide trained once, and the guide's own quality."""
    space = load_space(ROOT / "search_spaces" / PAIRS[name].space)
    if trained:
        prepare_guide(
            space.guide, space.learnt_from, space.guide_training, GUIDES, torch.device("cpu")
        )
    quality = {
        f"guide_{split}": score(space.guide, space.task, split) for split in ("validation", "test")
    }
    return Workshop(space, torch.device("cpu")), quality


def alignment_macs(candidate: Candidate) -> tuple[int, int]:
    """Multiply-adds of an alignment that takes no step, and those that a step of each stage adds.

    Args:
        candidate: assembled.
    """
    recipe, target = candidate.recipe, candidate.target
    run = Alignment(
        copy.deepcopy(target),
        candidate.activations,
        similarity(recipe.similarity, **recipe.similarity_options.given),
        recipe.model_copy(update={"align_steps": 0}),
        torch.Generator().manual_seed(0),
        candidate.block_macs,
    )
    batch = min(recipe.align_batch_size, candidate.activations.count)
    each = 0
    for stage in stages(recipe.schedule, recipe.order, target.replaced):
        if stage.aligned:
            chain = range(stage.trained[0], stage.stop)
            forward = {position: candidate.block_macs[position] for position in chain}
            each += batch * training_macs(forward, stage.trained)
    return sum(result.macs for result in align(run)), each


def budgeted(shop: Workshop, pair: Pair, cell: Cell) -> tuple[Recipe, int, int]:
    """The cell's recipe with the epochs that its budget leaves; the budget; the guide's MACs.

    Raises:
        ConversionError: the budget does not pay for what comes before task training.
    """
    changes = {"learning_rate": cell.learning_rate, **METHODS[cell.method]}
    if changes["schedule"] == "kd":
        changes["distill"] = cell.second
    if not cell.trained:
        changes["distill"] = 0.0  # logits of random weights teach nothing
    recipe = Recipe.model_validate(shop.space.recipe.model_dump() | changes)
    if recipe.similarity in ("cka", "dmnn"):
        # They compare examples with each other; the others take more steps for the same MACs.
        recipe = recipe.model_copy(update={"align_batch_size": 4 * recipe.align_batch_size})
    task, architecture = shop.space.task, pair.architecture
    candidate = shop.candidate(architecture, 0, recipe)
    candidate.target = target = assemble(shop.space, architecture, 0)
    epoch_examples = task.size("train") // recipe.batch_size * recipe.batch_size
    epoch = 3 * epoch_examples * shop.costs.of(architecture).macs
    budget = int(cell.share * pair.epochs * epoch)
    guide = shop.costs.of_parts().macs
    run = stages(recipe.schedule, recipe.order, target.replaced)
    aligned = [number for number, stage in enumerate(run) if stage.aligned]

    spent = 0
    if aligned:
        without, each = alignment_macs(candidate)
        steps = max(0, int((cell.second * budget - without) / each))
        recipe = recipe.model_copy(update={"align_steps": steps})
        spent = without + steps * each
    if (
        recipe.recalibrate
        and not recipe.untouched_by_guide
        and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in target.modules())
    ):
        spent += candidate.forward_macs(min(recipe.align_examples, task.size("train")))
    # Logits of every token are too many to keep: a guide that teaches text runs at every step.
    streamed = task.inlet.kind == "ids"
    guide_work = shop.activations.count * guide if aligned else 0
    if recipe.taught and streamed:
        epoch += epoch_examples * guide
    elif recipe.taught:
        guide_work += task.size("train") * guide
    if recipe.hybrid_epochs:
        batches = round(recipe.hybrid_epochs * (epoch_examples // recipe.batch_size))
        seen = batches * recipe.batch_size
        for stage in run:
            taught = seen if recipe.taught and streamed else 0
            spent += candidate.training_macs(EpochLoss(0, 0.0, seen, taught), stage.replaced)
    left = budget - spent - guide_work
    if left <= 0:
        raise ConversionError(f"{cell}: the budget of {budget:,} MACs does not pay for alignment")
    return recipe.model_copy(update={"epochs": left / epoch}), budget, guide_work


def run_cell(cell: Cell) -> dict[str, Any]:
    """One cell, in a process of its own."""
    started = time.perf_counter()
    shop, guide = workshop(cell.pair, cell.trained)
    pair, task = PAIRS[cell.pair], shop.space.task
    recipe, budget, guide_work = budgeted(shop, pair, cell)
    prepared = time.perf_counter()
    found = result_of(shop.convert(pair.architecture, cell.seed, recipe))
    evaluation = found.evaluation
    latency = measure_latency(found.network, task.inlet, device="cpu", threads=1)
    curve = [point for point in evaluation.curve if point.metric != "align_steps"]
    return {
        **asdict(cell),
        "commit": commit(),
        "metric": task.metric,
        "validation": evaluation.metrics[shop.space.metric],
        # Validation decides between methods; test is only reported. Tuning runs have none.
        "test": None if cell.seed == TUNING_SEED else score(found.network, task, "test"),
        "converted": next(p.value for p in curve if p.metric == shop.space.metric and p.step == 0),
        **guide,
        "params": evaluation.cost.params,
        "macs": evaluation.cost.macs,
        "latency_ms": [latency.p10_ms, latency.median_ms, latency.p90_ms],
        "epochs": recipe.epochs,
        "align_steps": recipe.align_steps,
        "budget_macs": budget,
        "train_macs": evaluation.train_macs_spent + guide_work,
        "guide_macs": guide_work,
        "seconds": evaluation.seconds,
        "set_up_seconds": prepared - started,
        "similarity": [
            [p.metric, p.step, round(p.value, 5)]
            for p in curve
            if p.metric.startswith(("similarity/", "stitch_residual/"))
        ],
    }


def finished() -> dict[Cell, dict[str, Any]]:
    """The cells that are there."""
    return cells_file.finished(CELLS, Cell)


def chosen() -> list[dict[str, Any]]:
    """Finished cells without those whose settings tuning has since left behind."""
    return [
        row
        for cell, row in finished().items()
        if cell.seed == TUNING_SEED
        or cell
        == tuned_cell(cell.pair, cell.method, cell.seed, trained=cell.trained, share=cell.share)
    ]


def run_or_reason(cell: Cell) -> dict[str, Any]:
    """A cell, or, since it would end so again, why it cannot be converted."""
    try:
        return run_cell(cell)
    except ConversionError as error:
        return {**asdict(cell), "validation": None, "test": None, "error": str(error)}


def keep(cell: Cell, row: dict[str, Any]) -> str:
    """Write a row down; what is said of it."""
    cells_file.append(CELLS, row)
    return row.get("error") or f"{row['validation']:.4f}, {row['seconds']:.0f} s"


def run_missing(cells: Iterable[Cell], jobs: int, deadline: float) -> bool:
    """Run the cells that are not there, each kept as it ends.

    Returns:
        Whether all are there now: what comes next is chosen by them.
    """
    done = finished()
    missing = [cell for cell in cells if cell not in done]
    return cells_file.run_cells(
        missing, lambda cell: partial(run_or_reason, cell), keep, jobs, deadline
    )


def tuned_methods(pair: str) -> list[tuple[str, bool, float]]:
    """Methods that are tuned by themselves: with a trained guide or not, at a share of compute."""
    text = PAIRS[pair].metric == "perplexity"
    cheap = TUNED if text else f"{TUNED}{UNTAUGHT}"
    found = [*((m, True, 1.0) for m in (*BASELINES, TUNED)), (cheap, True, 0.25)]
    if pair == FIRST:
        found += [("naive", False, 1.0), (TUNED, False, 1.0)]
    if not text:
        found += [(f"{m}{SMALL}", trained, share) for m, trained, share in found]
    return found


def tuning(pair: str) -> list[Cell]:
    """What tuning needs next: learning rates, then second settings, with a seed of their own."""
    wanted = []
    for method, trained, share in tuned_methods(pair):
        first, *others = SECOND.get(method.split(", ")[0], (0.0,))

        def cell(
            rate: float,
            second: float,
            method: str = method,
            trained: bool = trained,
            share: float = share,
        ) -> Cell:
            return Cell(pair, trained, method, TUNING_SEED, share, rate, second)

        done = finished()
        # With those beyond the grid that were asked for before.
        known = {c.learning_rate for c in done if c == cell(c.learning_rate, first)}
        rates = sorted({*RATES, *known})
        while all(cell(rate, first) in done for rate in rates):
            best, second = best_settings(pair, method, trained=trained, share=share)
            beyond = {rates[0]: rates[0] / 2, rates[-1]: rates[-1] * 2}.get(best)
            if beyond is None or not RATES_WITHIN[0] <= beyond <= RATES_WITHIN[1]:
                wanted += [cell(best, other) for other in others]
                if method not in CONTROLS and others[-1] <= second < LARGEST_SHARE:
                    wanted.append(cell(best, 2 * second))
                break
            rates = sorted([*rates, beyond])
        wanted += [cell(rate, first) for rate in rates]
    return wanted


def tune(pair: str, jobs: int, deadline: float) -> bool:
    """Run cells of tuning until it asks for no other; returns whether it came to its end."""
    while any(cell not in finished() for cell in tuning(pair)):
        if not run_missing(tuning(pair), jobs, deadline):
            return False
    return True


def best_settings(
    pair: str, method: str, *, trained: bool = True, share: float = 1.0
) -> tuple[float, float]:
    """Learning rate and second setting that tuning chose; all conversions share those of one.

    Without a trained guide those of a trained one, on pairs where no others were tuned.
    """
    lower = PAIRS[pair].metric == "perplexity"
    small = method.endswith(SMALL)
    ours = [m for m in METHODS if m not in CONTROLS and m.endswith(SMALL) == small]
    same = [method] if method in CONTROLS else ours
    rows = [
        (row["validation"] * (1 if lower else -1), cell)
        for cell, row in finished().items()
        if row["validation"] is not None
        and cell.method in same
        and (cell.pair, cell.seed) == (pair, TUNING_SEED)
    ]
    own = [row for row in rows if (row[1].trained, row[1].share) == (trained, share)]
    usual = [row for row in rows if (row[1].trained, row[1].share) == (True, 1.0)]
    _, best = min(own or usual)
    return best.learning_rate, best.second


def tuned_cell(
    pair: str, method: str, seed: int, *, trained: bool = True, share: float = 1.0
) -> Cell:
    """A cell with the settings that tuning chose."""
    settings = best_settings(pair, method, trained=trained, share=share)
    return Cell(pair, trained, method, seed, share, *settings)


def compared(pair: str, seeds: Sequence[int]) -> list[Cell]:
    """All methods on the first pair; its best two, and the library's schedule, on the others."""
    ours = list(CONVERSIONS)
    if pair != FIRST:
        best = report.best_methods(chosen(), FIRST, CONVERSIONS, 2)
        ours = list(dict.fromkeys([TUNED, *best, "independent-cka"]))
    methods = [*BASELINES, *ours]
    if PAIRS[pair].metric == "accuracy":
        methods += [*SMALL_BASELINES, f"{TUNED}{SMALL}"]
    return [tuned_cell(pair, method, seed) for seed in seeds for method in methods]


def quarter(pair: str, seeds: Sequence[int]) -> list[Cell]:
    """The best method at a quarter of the compute, with the guide's logits and without."""
    best = report.best_methods(chosen(), pair, CONVERSIONS, 1)[0]
    taught = PAIRS[pair].metric == "accuracy"
    methods = [best, *([f"{best}{UNTAUGHT}", *SMALL_CONVERSIONS] if taught else [])]
    return [tuned_cell(pair, m, seed, share=0.25) for seed in seeds for m in methods]


def untrained(pair: str, seeds: Sequence[int]) -> list[Cell]:
    """The pair's best two methods with an untrained guide, and `naive`."""
    best = report.best_methods(chosen(), pair, CONVERSIONS, 2)
    methods = dict.fromkeys(("naive", "progressive-cka", *best))
    if pair == FIRST:
        methods |= dict.fromkeys((f"naive{SMALL}", f"{TUNED}{SMALL}"))
    return [tuned_cell(pair, m, seed, trained=False) for seed in seeds for m in methods]


def ablations(pair: str, seeds: Sequence[int]) -> list[Cell]:
    """On the pair on which all methods are compared."""
    return [tuned_cell(pair, m, seed) for seed in seeds for m in ABLATIONS if pair == FIRST]


def fill(pairs: Sequence[str], seeds: Sequence[int], options: argparse.Namespace) -> None:
    """Run the cells that are missing until all are there or time is over."""
    deadline = time.time() + 60 * options.minutes
    # Settings and methods are chosen by what comes before, so nothing of that may be missing.
    if not all(tune(pair, options.jobs, deadline) for pair in pairs):
        return
    kinds = [compared] if options.main else [compared, quarter, ablations, untrained]
    for cells, pair in itertools.product(kinds, pairs):
        if not run_missing(cells(pair, seeds), options.jobs, deadline):
            return


def main() -> None:
    """Run what the arguments ask for, then write figures, table and plots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every pair")
    parser.add_argument("--pair", choices=PAIRS, action="append", default=[])
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="only the first so many")
    parser.add_argument("--main", action="store_true", help="leave out what only the best needs")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells at a time")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start none after")
    options = parser.parse_args()
    pairs = list(PAIRS) if options.all else options.pair
    if not (pairs or options.report):
        parser.error("give --all, --pair or --report")
    if not options.report:
        fill(pairs, SEEDS[: options.seeds], options)
    ours = [*CONVERSIONS, f"{TUNED}{SMALL}"]
    report.write(chosen(), SEEDS, TUNING_SEED, ours, list(METHODS), list(PAIRS))


if __name__ == "__main__":
    main()
