"""What the driver costs a trial in long searches of made-up worlds, without Ray."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.bare_search import bare_driver
from benchmarks.sampler import GUIDE, SPACE, World
from nas_theseus.costs.table import CostTable
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.trackers import Tracker
from nas_theseus.services.mlflow import MlflowTracker
from nas_theseus.space.load import load_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.outcomes import Evaluation
from nas_theseus.values.settings import SearchSettings

PARTS = ("ask", "tell", "front", "queue", "deliver")


class Clock:
    """Seconds by part since the last `take`."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, timed; of nested parts the inner one is not counted twice."""

        def run(*arguments: Any, **named: Any) -> Any:
            with self.part(part):
                return call(*arguments, **named)

        return run

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what is inside."""
        inner = sum(self._seconds.values())
        began = time.perf_counter()
        yield
        inner = sum(self._seconds.values()) - inner
        self._seconds[name] += time.perf_counter() - began - inner

    def take(self, trials: int) -> dict[str, float]:
        """Milliseconds a trial by part."""
        told = {f"{part}_ms": 1e3 * seconds / trials for part, seconds in self._seconds.items()}
        self._seconds = dict.fromkeys(PARTS, 0.0)
        return told


class TimedTrackers:
    """A tracker whose calls are timed."""

    def __init__(self, tracker: Tracker, clock: Clock) -> None:
        self._tracker = tracker
        self.begin, self.has, self.results = tracker.begin, tracker.has, tracker.results
        self.outcome = clock.timed("queue", tracker.outcome)
        self.front = clock.timed("queue", tracker.front)
        self.end = tracker.end


def settings_of(
    folder: Path, trials: int, sampler: str, study: str | None = None
) -> SearchSettings:
    """Settings of the search in a folder; `study` is a database's address."""
    return SearchSettings(
        name="scale", trials=trials, sampler=sampler, storage=folder, study_url=study
    )


class LongSearch:
    """One search of a made-up world in a folder; trials end as soon as they are proposed.

    Args:
        record: address of MLflow; None for a search that is not recorded.
        space: that of fashion_resnet by default.
    """

    def __init__(
        self, settings: SearchSettings, record: str | None, space: SearchSpace | None = None
    ) -> None:
        self.clock = Clock()
        self.space = space = space or load_space(SPACE)
        self._seed = settings.seed
        self.world = World(space, CostTable(space), settings.seed)
        self.folder = SearchFolder(Path(settings.storage).resolve(), settings.name)
        self.folder.create()
        self.tracker: MlflowTracker | None = None
        trackers: dict[str, Tracker] = {}
        if record is not None:
            self.tracker = MlflowTracker(
                settings.name, self.folder.outbox, self.folder.runs_file, tracking_uri=record
            )
            self.tracker.begin({})
            trackers = {"mlflow": TimedTrackers(self.tracker, self.clock)}
        self.driver = bare_driver(space, GUIDE, settings, trackers)
        study = self.driver.listeners.proposals
        study.propose = self.clock.timed("ask", study.propose)  # type: ignore[method-assign]
        study.report = self.clock.timed("tell", study.report)  # type: ignore[method-assign]

    def told(self, architecture: Architecture) -> Evaluation:
        """What a trial tells."""
        told = self.world.told(architecture)
        return replace(told, recipe=self.space.recipe.id, seed=self._seed)

    def run(self, trials: int, apart: bool = False) -> None:
        """So many trials, as fast as they are proposed; `apart` each when MLflow has the last.

        Fronts that wait for others are sent at the end, also in the time of delivery.
        """
        for _ in range(trials):
            job = self.driver.next()
            if not isinstance(job, Architecture):
                raise RuntimeError(self.driver.ended_because)
            self.driver.folder.write_outcome(self.told(job))
            with self.clock.part("front"):
                self.driver.ended(job, None)
            if apart:
                with self.clock.part("deliver"):
                    self.drain(fronts=False)
        if apart:
            with self.clock.part("deliver"):
                self.drain()

    def drain(self, fronts: bool = True) -> None:
        """Wait until MLflow has all records; with `fronts`, they do not wait for others."""
        if (tracker := self.tracker) is None:
            return
        with tracker._changed:
            tracker._finishing = fronts
            tracker._changed.notify_all()
            # Nobody tells of fronts that are held and so wait no more: looked at each millisecond.
            while tracker._waiting or (fronts and tracker._held):
                tracker._changed.wait(0.001)
            tracker._finishing = False


def measure_driver(
    lengths: list[int], measured: int, samplers: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """One cell for each length and sampler; the search itself first, then those on its copies."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = folder / "nsga2"
        whole = LongSearch(
            settings_of(own, max(lengths), "nsga2"), f"sqlite:///{folder / 'mlflow.db'}"
        )
        for cell in measure_recorded(whole, lengths, measured):
            yield {"kind": "driver", "sampler": "nsga2", **cell}
            copy = folder / str(cell["trials"]) / "searches"
            shutil.copytree(own / "searches", copy, ignore=_of_the_writer)
        if whole.tracker is not None:
            whole.tracker.end("FINISHED")
        for length in sorted(lengths):
            for sampler in samplers:
                if sampler != "nsga2":
                    one = folder / f"{sampler}-{length}"
                    shutil.copytree(folder / str(length), one)
                    settings = settings_of(one, length + measured + 1, sampler)
                    driver = LongSearch(settings, None)
                    driver.run(1)  # what depends on the space alone is kept from then on
                    driver.clock.take(1)
                    with _processor(None) as used:
                        driver.run(measured)
                    cell = _cell(length, measured, driver, used)
                    yield {"kind": "driver", "sampler": sampler, **cell}


def measure_recorded(
    whole: LongSearch, lengths: Sequence[int], measured: int
) -> Iterator[dict[str, Any]]:
    """A recorded search at each length: as fast as trials come, then its parts one by one."""
    done = 0
    for length in sorted(lengths):
        whole.run(length - 2 * measured - done)
        whole.drain()
        began = time.perf_counter()
        whole.run(measured)
        whole.drain()
        stream_s = time.perf_counter() - began
        whole.clock.take(1)
        with _processor(whole.tracker) as used:
            whole.run(measured, apart=True)
        done = length
        yield {
            **_cell(length, measured, whole, used),
            "stream_ms": 1e3 * stream_s / measured,
            "driver_mb": _resident_mb(),
        }


# What MLflow's writer may be replacing.
_of_the_writer = shutil.ignore_patterns("outbox", "runs.json", "*.aside")


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _cell(
    length: int, measured: int, driver: LongSearch, used: Mapping[str, float]
) -> dict[str, Any]:
    return {
        "trials": length,
        "measured": measured,
        **driver.clock.take(measured),
        **{part: 1e3 * seconds / measured for part, seconds in used.items()},
        "load": os.getloadavg()[0],
    }


@contextmanager
def _processor(tracker: MlflowTracker | None) -> Iterator[dict[str, float]]:
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
