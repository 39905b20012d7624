"""Stitching measured on Fashion-MNIST: docs/evidence/stitching-evidence.md.

    python -m benchmarks.stitching               run every cell that is missing, report
    python -m benchmarks.stitching --report      figures, tables and plots from what is there
    python -m benchmarks.stitching --plan        which cells are missing, how long they will take

Cells are of five kinds, each with a seed: `tune`, learning rates and batch sizes of the next two,
chosen on validation with a seed of its own; `net`, a network trained by itself; `stitchable`, a
stitchable net over three of them in one variant; `matrix`, two small networks stitched at every
pair of boundaries, with the four controls; `suggestions`, a search with and without what stitching
suggests (`benchmarks.stitching_suggestions`). Every cell is written to
results/stitching_cells.jsonl as it ends, so that the tables fill over several runs; delete a line
to run its cell again. All together take about 70 minutes of one core.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import chain, groupby
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from benchmarks import cells as cells_file
from benchmarks import stitching_report as report
from benchmarks.record import RESULTS, commit
from benchmarks.stitching_suggestions import SAMPLERS, run_suggestions
from nas_theseus.conversion.guide_training import prepare_guide
from nas_theseus.conversion.target import recalibrate
from nas_theseus.costs import count_macs
from nas_theseus.guide.chain import Guide
from nas_theseus.guide.cut import cut
from nas_theseus.guide.networks import ResNet
from nas_theseus.guide.weights import plain_state
from nas_theseus.stitching.anchors import Anchor
from nas_theseus.stitching.cells import CONTROLS, Endpoint, StitchRecipe
from nas_theseus.stitching.matrix import comparison
from nas_theseus.stitching.named_networks import Source
from nas_theseus.stitching.rows import Pair, RowSettings, RowWorker
from nas_theseus.stitching.stitchable import Direction, StitchableNet
from nas_theseus.stitching.training import StitchesTrained, train_stitches
from nas_theseus.tasks import ImageTask, Split, fashion_mnist
from nas_theseus.tasks.score import score
from nas_theseus.values.events import Ended
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
CELLS = RESULTS / "stitching_cells.jsonl"
STORAGE = ROOT / "theseus"
SEEDS = (0, 1, 2)
MATRIX_SEEDS = 1  # of them, so many for the matrices

TRAIN_IMAGES, VALIDATION_IMAGES = 10_000, 2_000
ANCHORS = (6, 9, 12)  # widths of ResNet(2,2,2)
# Trained by themselves only; stitches may be cheaper or dearer than every anchor.
OTHERS = (5, 7, 8, 10, 13)
# Chosen by the cells `tune`.
TRAINING = Recipe(epochs=8, learning_rate=3e-3, batch_size=32, distill=0)
STITCHES = Recipe(epochs=20, learning_rate=5e-3, batch_size=32, distill=0.5)
TUNING_SEED = 7
TRIED = {
    "net": ((6e-3, 128), (6e-3, 32), (3e-3, 32)),
    "stitches": ((2e-3, 128), (2e-3, 32), (5e-3, 32)),
}
VARIANTS: dict[str, tuple[bool, Direction]] = {
    "least-squares": (True, "fast-to-slow"),
    "kaiming": (False, "fast-to-slow"),
    "slow-to-fast": (True, "slow-to-fast"),
}
PAIRS = (
    "resnet1111 resnet1111",
    "resnet1111 resnet2222",
    "resnet2222 resnet1111",
    "resnet1212 resnet2121",
)
MATRIX_WIDTH, MATRIX_EPOCHS = 8, 1.0
MATRIX_RECIPE = StitchRecipe(examples=1024, epochs=1.0, score_examples=1000)


# Of one core, until a cell of the kind is there: multiply-adds counted by hand, at the 6 G a second
# that `benchmarks.search_cost` had with nets of this family.
EXPECTED_MINUTES = {"tune": 3, "net": 1.5, "stitchable": 8, "matrix": 3.5, "suggestions": 1.5}


@dataclass(frozen=True, order=True)
class Cell:
    """What one run is: kind, which of them (a width, a variant, a pair), and seed."""

    kind: str
    name: str
    seed: int


@lru_cache(maxsize=1)
def the_task() -> ImageTask:
    """What nets and stitches learn; a test that is the whole of Fashion-MNIST's."""
    return fashion_mnist(train_images=TRAIN_IMAGES, validation_images=VALIDATION_IMAGES)


def trained_net(width: int, seed: int, recipe: Recipe = TRAINING) -> tuple[Guide, int]:
    """A network trained by itself, from the guides' folder when it is there; MACs it took."""
    task = the_task()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("benchmark net", width, seed))
        network = ResNet((2, 2, 2), width)
    guide = cut(network, network.cuts, task.inlet.shape)
    prepare_guide(guide, task, recipe, STORAGE / "guides", torch.device("cpu"))
    steps = round(recipe.epochs * (TRAIN_IMAGES // recipe.batch_size))
    return guide, 3 * steps * recipe.batch_size * count_macs(guide, task.inlet)


def run_tune(cell: Cell) -> dict[str, Any]:
    """Mean validation accuracy of the nets that are anchors, or of all stitches between them."""
    kind, rate, batch = cell.name.split()
    task = the_task()
    tried = {"learning_rate": float(rate), "batch_size": int(batch)}
    if kind == "net":
        recipe = TRAINING.model_copy(update=tried)
        nets = [trained_net(width, cell.seed, recipe)[0] for width in ANCHORS]
        return {"validation": fmean(score(net, task, "validation") for net in nets)}
    net = stitchable_net(cell.seed, "fast-to-slow")
    net.fit()
    losses, _ = train_all(net, STITCHES.model_copy(update=tried), cell.seed)
    stitched = [i for i, config in enumerate(net.configs()) if config.stitch is not None]
    found = list(scores(net, "validation"))
    return {"validation": fmean(found[i] for i in stitched), "losses": losses}


def run_net(cell: Cell) -> dict[str, Any]:
    """Quality and cost of one network trained by itself."""
    guide, spent = trained_net(int(cell.name), cell.seed)
    task = the_task()
    return {
        "macs": count_macs(guide, task.inlet),
        "train_macs": spent,
        "validation": score(guide, task, "validation"),
        "test": score(guide, task, "test"),
    }


def stitchable_net(seed: int, direction: Direction) -> StitchableNet:
    """Over trained anchors, its stitches untrained."""
    task = the_task()
    anchors = [Anchor(f"w{w}", trained_net(w, seed)[0], task) for w in ANCHORS]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("stitches", seed))
        return StitchableNet(anchors, direction=direction)


def train_all(net: StitchableNet, recipe: Recipe, seed: int) -> tuple[list[float], int]:
    """Train all its networks; the loss of each epoch, and MACs spent."""
    losses, spent = [], 0
    for event in train_stitches(net, the_task(), recipe, seed):
        if isinstance(event, StitchesTrained):
            spent = event.macs
        else:
            losses.append(event.loss)
    return losses, spent


def scores(net: StitchableNet, split: Split) -> Iterator[float]:
    """Accuracy of each of its networks."""
    task = the_task()
    for index in range(len(net.configs())):
        net.select(index)
        yield score(net, task, split)


def run_stitchable(cell: Cell) -> dict[str, Any]:
    """All networks of a stitchable net, before any training (validation) and after it (test)."""
    fitted, direction = VARIANTS[cell.name]
    net = stitchable_net(cell.seed, direction)
    residuals = net.fit() if fitted else None
    before = list(scores(net, "validation"))
    losses, spent = train_all(net, STITCHES, cell.seed)
    after = list(scores(net, "test"))
    return {
        "networks": [
            {
                "name": str(config),
                "stitch": config.stitch,
                "macs": config.cost.macs,
                "params": config.cost.params,
                "before": first,
                "test": test,
            }
            for config, first, test in zip(net.configs(), before, after, strict=True)
        ],
        "residuals": residuals,
        "losses": losses,
        "train_macs": spent,
        "select_ms": select_ms(net),
    }


def select_ms(net: StitchableNet) -> float:
    """Median time of `select` over all networks, twenty times each."""
    times = []
    for index in list(range(len(net.configs()))) * 20:
        started = time.perf_counter()
        net.select(index)
        times.append(1e3 * (time.perf_counter() - started))
    return median(times)


def run_matrix(cell: Cell) -> dict[str, Any]:
    """The matrices of one pair; its cells lie in the storage folder too, so that it goes on."""
    names = cell.name.split()
    # Networks of one name are twins of other seeds.
    seeds = (cell.seed, cell.seed + (100 if names[0] == names[1] else 0))
    sources = [
        Source(name, seed, width=MATRIX_WIDTH, epochs=MATRIX_EPOCHS)
        for name, seed in zip(names, seeds, strict=True)
    ]
    states, own, guides = {}, [], []
    for source in sources:
        guide, task, training = source.build()
        twin = source.random_twin(guide)
        prepare_guide(guide, task, training, STORAGE / "guides", torch.device("cpu"))
        recalibrate(twin, task, 256, MATRIX_RECIPE.examples)
        own.append(score(guide, task, "validation"))
        guides.append(guide)
        for network, trained in ((guide, True), (twin, False)):
            states[source.label, trained] = plain_state(network)
    labels = sources[0].label, sources[1].label
    folder = STORAGE / "benchmark-stitching" / f"{'--'.join(labels)}-{MATRIX_RECIPE.id}"
    pair = Pair(*labels, folder)
    settings = RowSettings(
        {source.label: source for source in sources},
        states,
        (pair,),
        MATRIX_RECIPE,
        cell.seed,
        "cpu",
        1,
    )
    worker = RowWorker(settings)
    for trained in (True, False):
        for boundary in range(1, len(guides[0])):
            for event in worker(Endpoint(labels[0], trained, boundary)):
                if isinstance(event, Ended) and event.failure is not None:
                    raise RuntimeError(event.failure)
    kept = [found for ends in pair.cells(*guides) if (found := pair.read(*ends))]
    matrices = comparison(
        kept, labels, (guides[0].names[:-1], guides[1].names[:-1]), (own[0], own[1])
    ).to_json()
    return {"matrices": matrices, "controls": list(CONTROLS)}


KINDS: dict[str, Callable[[Cell], dict[str, Any]]] = {
    "tune": run_tune,
    "net": run_net,
    "stitchable": run_stitchable,
    "matrix": run_matrix,
    "suggestions": lambda cell: run_suggestions(cell.name, cell.seed, STORAGE),
}


def run_cell(cell: Cell) -> dict[str, Any]:
    """One cell, in a process of its own."""
    torch.set_num_threads(1)
    started, before = time.perf_counter(), time.process_time()
    found = KINDS[cell.kind](cell)
    return {
        **asdict(cell),
        "commit": commit(),
        **found,
        "seconds": time.perf_counter() - started,
        "core_seconds": time.process_time() - before,
    }


def planned(seeds: Sequence[int]) -> Iterator[list[Cell]]:
    """Cells, in lots of which the later need what the earlier trained."""
    tried = [f"{kind} {rate:g} {batch}" for kind in TRIED for rate, batch in TRIED[kind]]
    yield [Cell("tune", name, TUNING_SEED) for name in tried]
    yield [Cell("net", str(width), seed) for seed in seeds for width in (*ANCHORS, *OTHERS)]
    yield [Cell("stitchable", variant, seed) for seed in seeds for variant in VARIANTS]
    yield [Cell("matrix", pair, seed) for seed in seeds[:MATRIX_SEEDS] for pair in PAIRS]
    yield [Cell("suggestions", sampler, seed) for seed in seeds for sampler in SAMPLERS]


def plan(cells: Iterable[Cell]) -> Iterator[str]:
    """What is missing of each kind, and the minutes of one core that it will take."""
    done, minutes = finished(), 0.0
    for kind, every in groupby(cells, key=lambda cell: cell.kind):
        missing = [cell for cell in every if cell not in done]
        taken = [row["core_seconds"] for cell, row in done.items() if cell.kind == kind]
        each = fmean(taken) / 60 if taken else EXPECTED_MINUTES[kind]
        minutes += each * len(missing)
        source = f"as the {len(taken)} that are there took" if taken else "estimated"
        yield f"{kind}: {len(missing)} missing, {each:.1f} core-minutes each ({source})"
    yield f"{minutes:.0f} core-minutes in all"


def finished() -> dict[Cell, dict[str, Any]]:
    """The cells that are there."""
    return cells_file.finished(CELLS, Cell)


def keep(cell: Cell, row: dict[str, Any]) -> str:
    """Write a row down; what is said of it."""
    cells_file.append(CELLS, row)
    return f"{row['seconds']:.0f} s"


def run_missing(cells: Iterable[Cell], jobs: int, deadline: float) -> bool:
    """Run the cells that are not there, each kept as it ends.

    Returns:
        Whether all are there now: the next lot needs them.
    """
    done = finished()
    missing = [cell for cell in cells if cell not in done]
    return cells_file.run_cells(missing, lambda cell: partial(run_cell, cell), keep, jobs, deadline)


def main() -> None:
    """Run what the arguments ask for, then write figures, tables and plots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--plan", action="store_true", help="tell what is missing, run nothing")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="only the first so many")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells at a time")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start none after")
    options = parser.parse_args()
    deadline = time.time() + 60 * options.minutes
    lots = list(planned(SEEDS[: options.seeds]))
    print("\n".join(plan(chain(*lots))), flush=True)
    if options.plan:
        return
    if not options.report:
        for cells in lots:
            if not run_missing(cells, options.jobs, deadline):
                break
    share = TRAINING.epochs * (TRAIN_IMAGES // TRAINING.batch_size) * TRAINING.batch_size * 3
    report.write(list(finished().values()), SEEDS, share)


if __name__ == "__main__":
    main()
