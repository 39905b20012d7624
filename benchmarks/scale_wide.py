"""A space of many parts, and a front of many members."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.sampler import GUIDE
from benchmarks.scale_driver import LongSearch
from benchmarks.scale_services import Pages, new_folder, servers
from benchmarks.scale_spaces import BLOCKS, wide_space
from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.pareto import as_minimised, ranks
from nas_theseus.searches.basis import Basis
from nas_theseus.searches.beginning import Beginning
from nas_theseus.searches.front_drawing import draw_front
from nas_theseus.searches.front_files import read_front, write_front
from nas_theseus.searches.opening import Measured
from nas_theseus.searches.records import Records
from nas_theseus.searches.report_page import write_report
from nas_theseus.space.genome import Genome
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.outcomes import Cost, Evaluation
from nas_theseus.values.settings import SearchSettings
from nas_theseus.values.tracking import Results

TRIALS, MEASURED = 100, 20
_FRONT_PARTS = 6


def measure_wide(parts: int, samplers: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One cell for each sampler: a trial's cost in a space of so many parts."""
    for sampler in samplers:
        with new_folder() as folder:
            settings = SearchSettings(name="wide", trials=TRIALS, sampler=sampler, storage=folder)
            search = LongSearch(settings, f"sqlite:///{folder / 'mlflow.db'}", wide_space(parts))
            search.run(TRIALS - MEASURED)
            search.drain()
            search.clock.take(1)
            search.run(MEASURED, apart=True)
            assert search.tracker is not None
            yield {
                "kind": "wide",
                "sampler": sampler,
                "parts": parts,
                "blocks": BLOCKS,
                "genes": len(Genome(search.space).genes),
                "trials": TRIALS,
                "measured": MEASURED,
                **search.clock.take(MEASURED),
                "undelivered": search.tracker.end("FINISHED"),
                "refused": search.tracker.refused,
                "load": os.getloadavg()[0],
            }


class AllOnTheFront(LongSearch):
    """A search each of whose trials is better and costs more than those before."""

    def told(self, architecture: Architecture) -> Evaluation:
        """What a trial tells."""
        number = len(self.driver.ledger.evaluations)
        cost = Cost({"macs": 1_000_000 + 1_000 * number, "params": 1_000 + number})
        metrics = {"val_accuracy": 0.5 + number / 10_000}
        return replace(super().told(architecture), metrics=metrics, cost=cost)


def measure_front(members: int) -> Iterator[dict[str, Any]]:
    """One cell: what a front of so many members costs the search, its files and MLflow's pages.

    The networks are not there, so they are neither tested nor exported.
    """
    with new_folder() as folder, servers(folder / "servers") as at:
        settings = SearchSettings(name="front", trials=members, sampler="random", storage=folder)
        search = AllOnTheFront(settings, at.mlflow, wide_space(_FRONT_PARTS))
        search.run(members - MEASURED)
        search.drain()
        search.clock.take(1)
        search.run(MEASURED, apart=True)
        trial = search.clock.take(MEASURED)
        seconds = _finish(search, settings)
        assert search.tracker is not None
        began = time.perf_counter()
        undelivered = search.tracker.end("FINISHED", timeout_s=600)
        seconds["delivery_of_ranks"] = time.perf_counter() - began
        pages = Pages(at.mlflow)
        parent = search.folder.run_ids()["parent"]
        yield {
            "kind": "front",
            "members": len(search.driver.ledger.members),
            **trial,
            "seconds": seconds,
            "undelivered": undelivered,
            "refused": search.tracker.refused,
            "queries_ms": pages.queries("front", "val_accuracy", parent),
            "load": os.getloadavg()[0],
        }


def _finish(search: AllOnTheFront, settings: SearchSettings) -> dict[str, float]:
    """Seconds of what the end of a search does with its front, but for its networks."""
    space, folder, evaluations = search.space, search.folder, search.driver.ledger.evaluations
    costs = CostTable(space)
    guide = {space.metric: GUIDE, **costs.of_parts().known()}
    Beginning.of(space, settings).write(folder)
    Basis.of(Measured(space, costs, guide)).write(folder)
    folder.front.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        found = call()
        seconds[name] = time.perf_counter() - began
        return found

    front = timed("read_front", lambda: read_front(folder))
    timed("draw_front", lambda: draw_front(folder, front))
    timed("write_front", lambda: write_front(folder, front, guide, {}))
    written: Path = timed("write_report", lambda: write_report(Records.read(folder)))
    seconds["report_mb"] = written.stat().st_size / 2**20
    names = [evaluation.architecture.id for evaluation in evaluations]
    order = timed("ranks", lambda: ranks(as_minimised(evaluations, space.goals)))
    if search.tracker is not None:
        search.tracker.results(Results(dict(zip(names, order, strict=True)), {}, ()))
    return seconds
