"""What the driver costs a trial in long searches, and how busy it keeps many slots.

    python -m benchmarks.scale [--trials 100 1000 10000] [--slots 2 4 8 16 32 64] [--rounds 3]

Driver: one search of made-up worlds (benchmarks/sampler.py), proposed by NSGA-II, told and recorded
as in a real one (Optuna's journal, outbox, MLflow on SQLite), without Ray. At each length as many
trials as `--measured` are timed one by one: a proposal (ask), its result told (tell), the front
with its hypervolume (front), and the records queued and delivered (record). At each length a copy
of the journal is opened with the other samplers, which propose and are told as many.

Slots: Ray Tune over `cluster.run_jobs`, on a Ray that is told of as many CPUs as there are slots;
a trial only waits, in a worker that imports no torch. Utilisation is waited time over slots and
wall time, from when every slot has had its first trial (ramp-up) to when the last trial starts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_theseus.services import cluster
from nas_theseus.settings import Sampler, SearchSettings
from nas_theseus.values import Architecture, BlockChoice, Reached, Span

# Workers import this module for `Wait`, and no torch: 64 of them would fill the memory.
if TYPE_CHECKING:
    from nas_theseus.search.jobs import ProposalJobs
    from nas_theseus.services.tracking import Tracker

SAMPLERS: tuple[Sampler, ...] = ("nsga2", "tpe", "theseus")
PARTS = ("ask", "tell", "front", "queue", "deliver")


@dataclass(frozen=True)
class Wait:
    """A worker whose evaluations only wait; each leaves its process, begin and end as a file."""

    folder: Path
    seconds: float

    def __call__(self) -> Wait:
        return self

    def run(self, job: Architecture) -> Generator[str, None, None]:
        began = time.time()
        time.sleep(self.seconds)
        torch = int("torch" in sys.modules)
        (self.folder / job.id).write_text(f"{os.getpid()} {began} {time.time()} {torch}")
        yield "waited"


@dataclass(frozen=True)
class MakeWait:
    """Makes `Wait.run` in the worker's process."""

    worker: Wait

    def __call__(self) -> cluster.WorkerRun[Architecture]:
        return self.worker.run


class Queue:
    """So many jobs, each another architecture."""

    def __init__(self, count: int) -> None:
        self._left = list(range(count))

    def next(self) -> Architecture | None:
        if not self._left:
            return None
        return Architecture((BlockChoice(Span(0, 1), f"b{self._left.pop()}"),))

    def reported(self, job: Architecture, stage: str) -> None:
        """Nothing."""

    def reached(self, reached: Reached) -> bool:
        """Trials that wait have no rungs."""
        return True

    def ended(self, job: Architecture, failure: str | None) -> None:
        if failure is not None:
            raise RuntimeError(failure)


class Clock:
    """Seconds by part, of the trials since the last `take`."""

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = {part: [] for part in PARTS}

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, timed; of nested parts the inner one is not counted twice."""

        def run(*arguments: Any, **named: Any) -> Any:
            with self.part(part):
                return call(*arguments, **named)

        return run

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        inner = sum(map(sum, self.wall.values()))
        began = time.perf_counter()
        yield
        inner = sum(map(sum, self.wall.values())) - inner
        self.wall[name].append(time.perf_counter() - began - inner)

    def take(self, trials: int) -> dict[str, float]:
        """Milliseconds a trial by part."""
        told = {f"{part}_ms": sum(all_) / trials * 1e3 for part, all_ in self.wall.items()}
        self.wall = {part: [] for part in PARTS}
        return told


class Silent:
    """Shows nothing."""

    def say(self, message: str) -> None:
        """Nothing."""

    def show(self, state: object) -> None:
        """Nothing."""


class Driver:
    """One search of a made-up world in a folder; trials end as soon as they are proposed."""

    def __init__(self, folder: Path, trials: int, sampler: Sampler, record: bool) -> None:
        # Here, as workers that wait must not import them.
        from benchmarks.sampler import GUIDE, SPACE, World
        from nas_theseus.costs.table import CostTable
        from nas_theseus.search.jobs import ProposalJobs
        from nas_theseus.services.tracking import Tracker
        from nas_theseus.space import load_space
        from nas_theseus.storage import Storage

        self.clock = Clock()
        space = load_space(SPACE)
        costs = CostTable(space)
        self._world, self._recipe = World(space, costs, 0), space.recipe.id
        self._storage = Storage(folder, "scale")
        self._storage.create()
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.tracker: Tracker = Tracker(
            "scale", self._storage.outbox, self._storage.runs_file, tracking_uri=uri
        )
        self._record = record
        if record:
            self.tracker.start({})
        else:
            self.tracker._put = lambda kind, **content: None  # type: ignore[method-assign]
        settings = SearchSettings(
            name="scale", trials=trials, parallel=1, sampler=sampler, storage=folder
        )
        guide = {"val_accuracy": GUIDE, **costs.of_parts().known()}
        self.jobs: ProposalJobs = ProposalJobs(
            space, costs, self._storage, self.tracker, settings, Silent(), guide
        )
        self._time_parts()

    def _time_parts(self) -> None:
        study, clock = self.jobs._study, self.clock
        study.propose = clock.timed("ask", study.propose)  # type: ignore[method-assign]
        study.tell = clock.timed("tell", study.tell)  # type: ignore[method-assign]
        self.tracker._put = clock.timed("queue", self.tracker._put)  # type: ignore[method-assign]

    def run(self, trials: int, one_by_one: bool) -> None:
        """So many trials; `one_by_one` waits after each until MLflow has its records."""
        for _ in range(trials):
            job = self.jobs.next()
            if not isinstance(job, Architecture):
                raise RuntimeError(self.jobs.state.ended_because)
            told = replace(self._world.told(job), recipe=self._recipe)
            self._storage.write_outcome(told)
            with self.clock.part("front"):
                self.jobs.ended(job, None)
            if one_by_one and self._record:
                with self.clock.part("deliver"):
                    self.drain()

    def drain(self) -> None:
        """Wait until MLflow has all records."""
        with self.tracker._changed:
            self.tracker._changed.wait_for(lambda: not self.tracker._waiting)


def measure_driver(
    lengths: list[int], measured: int, samplers: list[Sampler]
) -> Iterator[dict[str, Any]]:
    """One cell for each length and sampler."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = Driver(folder / "nsga2", max(lengths), "nsga2", record=True)
        done = 0
        for length in sorted(lengths):
            whole.run(length - measured - done, one_by_one=False)
            whole.drain()
            whole.clock.take(1)
            with _processor(whole.tracker) as used:
                whole.run(measured, one_by_one=True)
            done = length
            yield {
                "kind": "driver", "sampler": "nsga2", "trials": length, "measured": measured,
                **whole.clock.take(measured),
                **{part: 1e3 * seconds / measured for part, seconds in used.items()},
                "driver_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "load": os.getloadavg()[0],
            }  # fmt: skip
            for sampler in samplers:
                if sampler == "nsga2":
                    continue
                other = folder / sampler
                shutil.copytree(folder / "nsga2" / "searches", other / "searches")
                one = Driver(other, length + measured, sampler, record=False)
                one.clock.take(1)
                with _processor(None) as used:
                    one.run(measured, one_by_one=True)
                yield {
                    "kind": "driver", "sampler": sampler, "trials": length, "measured": measured,
                    **one.clock.take(measured),
                    **{part: 1e3 * seconds / measured for part, seconds in used.items()},
                    "load": os.getloadavg()[0],
                }  # fmt: skip
                shutil.rmtree(other)
        whole.tracker.finish()


@contextmanager
def _processor(tracker: Tracker | None) -> Iterator[dict[str, float]]:
    """Processor seconds of this thread and of the one that writes to MLflow."""
    used: dict[str, float] = {}

    def now() -> dict[str, float]:
        told = {"main_cpu_ms": time.thread_time()}
        if tracker is not None and tracker._thread is not None:
            identity = tracker._thread.ident
            if identity is None:
                raise RuntimeError("the writer thread has not started")
            clock = time.pthread_getcpuclockid(identity)
            told["writer_cpu_ms"] = time.clock_gettime(clock)
        return told

    before = now()
    yield used
    used.update({part: value - before[part] for part, value in now().items()})


def measure_slots(slots: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Utilisation of so many slots by trials that only wait."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "waited").mkdir()
        settings = SearchSettings(name="scale", parallel=slots, storage=folder)
        # As many CPUs as slots: a node that Ray believes, not this machine's cores.
        cluster.connect(settings, folder / "log")
        try:
            make = MakeWait(Wait(folder / "waited", seconds))
            cluster.run_jobs(Queue(slots * (rounds + 2)), make, settings, folder / "log")
        finally:
            cluster.disconnect()
        told = [path.read_text().split() for path in (folder / "waited").iterdir()]
    return {
        "kind": "slots", "slots": slots, "seconds": seconds, "trials": len(told),
        "utilisation": utilisation([(int(t[0]), float(t[1]), float(t[2])) for t in told], slots),
        "workers_with_torch": len({t[0] for t in told if t[3] == "1"}),
        "processes": len({t[0] for t in told}), "load": os.getloadavg()[0],
    }  # fmt: skip


def utilisation(trials: list[tuple[int, float, float]], slots: int) -> float:
    """Share of slots x time in which trials ran, between ramp-up and the last start.

    Args:
        trials: process, begin and end in seconds of each.

    The window opens when the last process has begun its first trial, and closes when the last trial
    begins: after that there is nothing left to hand out. A slot without a process is idle.
    """
    firsts: dict[int, float] = {}
    for process, begin, _ in trials:
        firsts[process] = min(begin, firsts.get(process, begin))
    opens, closes = max(firsts.values()), max(begin for _, begin, _ in trials)
    if closes <= opens:
        raise ValueError(f"{len(trials)} trials on {slots} slots leave no time between ramp-up "
                         "and the last start; run more rounds")  # fmt: skip
    busy = sum(max(0.0, min(end, closes) - max(begin, opens)) for _, begin, end in trials)
    return busy / (slots * (closes - opens))


def figures_of(
    cells: list[dict[str, Any]], longest: int
) -> tuple[dict[str, float | None], dict[str, str]]:
    """The figures, and notes on those that are missing."""
    figures: dict[str, float | None] = {}
    notes: dict[str, str] = {}
    driver = {(c["sampler"], c["trials"]): c for c in cells if c["kind"] == "driver"}

    def cost(sampler: str, trials: int) -> float | None:
        cell, recorded = driver.get((sampler, trials)), driver.get(("nsga2", trials))
        if cell is None or recorded is None:
            return None
        # What records cost does not depend on who proposed.
        return float(
            cell["ask_ms"] + cell["tell_ms"] + recorded["queue_ms"] + recorded["deliver_ms"]
        )

    for sampler in SAMPLERS:
        for trials in (100, 1_000, 10_000):
            name = f"ms_per_trial_{sampler}_{trials}"
            figures[name] = cost(sampler, trials)
            notes[name] = (
                "ask + tell + record, mean; its parts are in the cells"
                if figures[name] is not None
                else f"not run: --trials went to {longest}"
            )

    def recorded(trials: int) -> float | None:
        cell = driver.get(("nsga2", trials))
        return None if cell is None else float(cell["queue_ms"] + cell["deliver_ms"])

    last, first = recorded(10_000), recorded(1_000)
    figures["record_growth"] = last / first if last and first else None
    notes["record_growth"] = "queue + delivery to MLflow on SQLite, at 10,000 over at 1,000 trials"
    for trials in (100, 10_000):
        figures[f"driver_mb_{trials}"] = driver.get(("nsga2", trials), {}).get("driver_mb")
        notes[f"driver_mb_{trials}"] = "peak resident memory of the driver's process"
    slots = [c["utilisation"] for c in cells if c["kind"] == "slots"]
    figures["utilisation_min"] = min(slots, default=None)
    notes["utilisation_min"] = "worst over slot counts"
    for name in ("record_growth", "driver_mb_100", "driver_mb_10000"):
        if figures[name] is None:
            notes[name] = f"not run: --trials went to {longest}"
    if not slots:
        notes["utilisation_min"] = "not run: no --slots"
    return figures, notes


def key(cell: Mapping[str, Any]) -> tuple[object, ...]:
    """What a cell is of; a later run of the same takes its place."""
    names = ("slots",) if cell["kind"] == "slots" else ("sampler", "trials")
    return tuple(cell[name] for name in names)


def main() -> None:
    """Measure what is asked for and write results/scale.json, where other cells stay."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="*", default=[100, 1_000, 10_000])
    parser.add_argument("--measured", type=int, default=50)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--slots", type=int, nargs="*", default=[2, 4, 8, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    from benchmarks.record import RESULTS, commit, write_record

    measured: list[Iterator[dict[str, Any]]] = [
        (measure_slots(slots, given.seconds, given.rounds) for slots in given.slots)
    ]
    if given.trials:
        measured.append(measure_driver(given.trials, given.measured, given.samplers))
    path = RESULTS / "scale.json"
    earlier = json.loads(path.read_text())["cells"] if path.exists() else []
    found = {key(cell): cell for cell in earlier}
    for cell in chain(*measured):
        found[key(cell)] = {**cell, "commit": commit()}
        print(cell, flush=True)
    cells = list(found.values())
    figures, notes = figures_of(cells, max(given.trials, default=0))
    notes["cells"] = "each of its latest run, with the commit that it ran at"
    loads = [cell["load"] for cell in cells]
    notes["load"] = (
        f"other work ran beside it: load average {statistics.mean(loads):.1f} on "
        f"{os.cpu_count()} cores" if statistics.mean(loads) > (os.cpu_count() or 1) + 1 else "quiet"
    )  # fmt: skip
    print(figures, write_record("scale", figures, cells, [0], notes))


if __name__ == "__main__":
    main()
