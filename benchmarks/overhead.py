"""What the search costs beside its trials' own work: driver seconds a trial, wall over ideal, demo.

    python benchmarks/overhead.py            everything
    python benchmarks/overhead.py --short    20 trials and the demo only

The overhead runs are real searches (Ray Tune, Optuna's journal, MLflow on SQLite, the space of
search_spaces/digits.py), but their evaluation returns at once with a made-up quality.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bare_search import bare_driver
from benchmarks.record import write_record
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.services.mlflow import MlflowTracker
from nas_theseus.services.ray.executor import RayExecutor
from nas_theseus.space.load import load_space
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.events import Ended
from nas_theseus.values.outcomes import Cost, Evaluation, Stopped
from nas_theseus.values.settings import ExecutorSettings, SearchSettings

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "search_spaces" / "digits.py"


@dataclass(frozen=True)
class AtOnce:
    """A worker whose evaluations cost nothing: quality and MACs from the architecture's id."""

    folder: SearchFolder
    recipe: str

    def __call__(self, job: Architecture) -> Iterator[str | Ended]:
        number = int(job.id, 16)
        quality, macs = number % 1009 / 1009, 20_000 + number // 1009 % 2_000_000
        evaluation = Evaluation(
            job,
            self.recipe,
            0,
            {"val_accuracy": quality},
            Cost({"macs": macs, "params": 1}),
            0,
            0.0,
        )
        self.folder.write_outcome(evaluation)
        yield "done at once"
        yield Ended()


@dataclass(frozen=True)
class MakeAtOnce:
    """Makes `AtOnce` in the worker's process."""

    worker: AtOnce

    def __call__(self) -> AtOnce:
        return self.worker


def overhead(trials: int, sampler: str, folder: Path) -> dict[str, Any]:
    """Wall seconds a trial of a search whose evaluations cost nothing, without Ray's start."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    space = load_space(DIGITS)
    settings = SearchSettings(name="overhead", trials=trials, sampler=sampler, storage=folder)
    storage = SearchFolder(folder.resolve(), "overhead")
    storage.create()
    tracker = MlflowTracker("overhead", storage.outbox, storage.runs_file)
    tracker.begin({})
    executor = RayExecutor(ExecutorSettings(parallel=2), storage.log)
    executor.open()
    try:
        driver = bare_driver(space, 0.99, settings, {"mlflow": tracker}, slots=2)
        make = MakeAtOnce(AtOnce(storage, space.recipe.id))
        started = time.perf_counter()
        processor = time.process_time()
        executor.run(driver, make, driver.promotes)
        seconds = time.perf_counter() - started
        processor = time.process_time() - processor
    finally:
        executor.close()
        left = tracker.end("FINISHED")
    done = driver.ledger.progress.done
    return {
        "kind": "overhead",
        "sampler": sampler,
        "trials": done,
        "seconds": seconds,
        "seconds_per_trial": seconds / done,
        "driver_cpu_seconds_per_trial": processor / done,
        "proposals_known": driver.listeners.proposals.duplicates,
        "records_undelivered": left,
    }


def demo(folder: Path) -> dict[str, Any]:
    """The command of ``make demo`` after set-up, in an empty folder."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    command = [
        sys.executable,
        "-m",
        "nas_theseus",
        "search",
        str(DIGITS),
        "--name",
        "demo",
        "--trials",
        "12",
    ]
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - started
    storage = SearchFolder(folder / "theseus", "demo")
    outcomes = [o.evaluation if isinstance(o, Stopped) else o for o in storage.outcomes()]
    trials = [o for o in outcomes if isinstance(o, Evaluation)]
    blocks = sum(block.seconds for block in storage.block_outcomes())
    own = sum(trial.seconds for trial in trials) + blocks
    slots = os.cpu_count() or 1
    return {
        "kind": "demo",
        "seconds": wall,
        "trials": len(trials),
        "trial_seconds": own,
        "slots": slots,
        "overhead_seconds": wall - own / slots,
    }


def main() -> None:
    """Measure and write results/overhead.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="leave out the 2,000 trials")
    short = parser.parse_args().short
    os.environ["OMP_NUM_THREADS"] = "1"
    cells: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case, trials in (("demo", 12), ("few", 20), *(() if short else (("many", 2000),))):
            (folder / case).mkdir()
            cells.append(
                demo(folder / case) if case == "demo" else overhead(trials, "tpe", folder / case)
            )
            print(cells[-1], flush=True)
    shown = {cell.get("trials"): cell for cell in cells if cell["kind"] == "overhead"}
    first = cells[0]
    notes = {
        "demo_trial_seconds": "the trials' own work, conversions of blocks included",
        "demo_overhead_seconds": "wall less the trials' own work over the slots: imports, guide "
        "training, Ray's start, tests of the front and artifacts",
        "driver_seconds_per_trial_20": "includes the start of two worker processes",
    }
    if short:
        notes["driver_seconds_per_trial_2000"] = "left out by --short"
    figures = {
        "driver_seconds_per_trial_20": shown[20]["seconds_per_trial"],
        "driver_seconds_per_trial_2000": (None if short else shown[2000]["seconds_per_trial"]),
        "demo_seconds": first["seconds"],
        "demo_trial_seconds": first["trial_seconds"],
        "demo_overhead_seconds": first["overhead_seconds"],
    }
    print(figures, write_record("overhead", figures, cells, [0], notes))


if __name__ == "__main__":
    main()
