"""How busy Ray Tune over `RayExecutor.run` keeps slots, by trials that only wait.

Workers import this module, and no torch: 64 of them would fill the memory.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_theseus.services.ray.executor import RayExecutor
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.events import Ended
from nas_theseus.values.settings import ExecutorSettings

RAMP_UP_S = 600.0


@dataclass(frozen=True)
class Wait:
    """A worker whose evaluations only wait; each leaves its process, begin and end as a file.

    A worker's first waits until all have begun. When a trial ends while workers start, Tune gives
    its worker to a trial that waits for another, and stops the other: with many more workers than
    cores some would not begin for as long as the search lasts.
    """

    folder: Path
    seconds: float
    slots: int

    def __call__(self, job: Architecture) -> Iterator[str | Ended]:
        self._ramp_up()
        began = time.time()
        time.sleep(self.seconds)
        torch = int("torch" in sys.modules)
        (self.folder / "trials" / job.id).write_text(f"{os.getpid()} {began} {time.time()} {torch}")
        yield "waited"
        yield Ended()

    def _ramp_up(self) -> None:
        workers, limit = self.folder / "workers", time.time() + RAMP_UP_S
        own = workers / str(os.getpid())
        if own.exists():
            return
        own.touch()
        while (begun := len(list(workers.iterdir()))) < self.slots:
            if time.time() > limit:
                raise TimeoutError(f"{begun} of {self.slots} workers began in {RAMP_UP_S:g} s")
            time.sleep(0.1)


@dataclass(frozen=True)
class MakeWait:
    """Makes `Wait` in the worker's process."""

    worker: Wait

    def __call__(self) -> Wait:
        return self.worker


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

    def ended(self, job: Architecture, failure: str | None) -> None:
        if failure is not None:
            raise RuntimeError(failure)


def measure_slots(slots: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Utilisation of so many slots by trials that only wait."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in ("trials", "workers"):
            (folder / kind).mkdir()
        # As many CPUs as slots: a node that Ray believes, not this machine's cores.
        executor = RayExecutor(ExecutorSettings(parallel=slots), folder / "log")
        executor.open()
        try:
            make = MakeWait(Wait(folder, seconds, slots))
            executor.run(Queue(slots * (rounds + 2)), make)
        finally:
            executor.close()
        told = [path.read_text().split() for path in (folder / "trials").iterdir()]
    return {
        "kind": "slots",
        "slots": slots,
        "seconds": seconds,
        "trials": len(told),
        "utilisation": utilisation([(int(t[0]), float(t[1]), float(t[2])) for t in told], slots),
        "workers_with_torch": len({t[0] for t in told if t[3] == "1"}),
        "processes": len({t[0] for t in told}),
        "load": os.getloadavg()[0],
    }


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
        raise ValueError(
            f"{len(trials)} trials on {slots} slots leave no time between ramp-up "
            "and the last start; run more rounds"
        )
    busy = sum(max(0.0, min(end, closes) - max(begin, opens)) for _, begin, end in trials)
    return busy / (slots * (closes - opens))
