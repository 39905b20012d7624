"""Many searches beside each other: one MLflow server, one library, one folder."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.scale_driver import LongSearch
from benchmarks.scale_services import Pages, new_folder, servers
from benchmarks.scale_spaces import wide_space
from nas_theseus.estimate.pareto import front_of
from nas_theseus.library.block_key import BlockKeys
from nas_theseus.library.record import Facts
from nas_theseus.library.store import Library
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.goals import Objective
from nas_theseus.values.outcomes import Evaluation
from nas_theseus.values.settings import SearchSettings

PARTS = 6
PROCESSES = 2
_LOOK_S = 2.0
_FACTS = Facts(similarity=0.9, residual=0.1, steps=1, macs=1, seconds=0.0, device="cpu")


def name_of(number: int) -> str:
    """Name of a search."""
    return f"beside-{number:03d}"


def run_group(numbers: list[int], trials: int, folder: Path, mlflow: str) -> dict[str, int]:
    """Run searches in this process, a trial of each in turn; all are open at once.

    Returns:
        Records that were not delivered, records that MLflow refused, and blocks asked of the
        library.
    """
    space = wide_space(PARTS)
    keys, library = BlockKeys(space), Library(folder / "library")
    searches = [
        LongSearch(
            SearchSettings(
                name=name_of(number), trials=trials, sampler="nsga2", storage=folder, seed=number
            ),
            mlflow,
            space,
        )
        for number in numbers
    ]
    counts = Counter[str]()
    for _ in range(trials):
        for search in searches:
            search.run(1)
            counts["blocks"] += use_library(
                library, keys, search.driver.ledger.evaluations[-1].architecture
            )
    for search in searches:
        if search.tracker is not None:
            counts["undelivered"] += search.tracker.end("FINISHED", timeout_s=600)
            counts["refused"] += search.tracker.refused
    return dict(counts)


def use_library(library: Library, keys: BlockKeys, architecture: Architecture) -> int:
    """Take an architecture's blocks from the library, or put them there; returns how many."""
    wanted = [key for key in keys.of_blocks(architecture) if key is not None]
    for key in wanted:
        if library.get(key) is None:
            with library.working_on(key):
                if library.get(key) is None:
                    library.put(key, {"weight": torch.full((64,), 1.0)}, _FACTS)
    return len(wanted)


def measure_beside(searches: int, trials: int) -> Iterator[dict[str, Any]]:
    """One cell: what was lost or doubled, how long it took, and how long MLflow's pages take."""
    with new_folder() as folder, servers(folder / "servers") as at:
        storage = folder / "storage"
        storage.mkdir()
        groups = [list(range(searches))[first::PROCESSES] for first in range(PROCESSES)]
        began = time.perf_counter()
        slowest_ms = 0.0
        # Spawned, so that each has a torch of its own.
        with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
            running = [
                pool.submit(run_group, group, trials, storage, at.mlflow) for group in groups
            ]
            while not all(one.done() for one in running):
                time.sleep(_LOOK_S)
                slowest_ms = max(slowest_ms, _look(at.mlflow))
            counts = sum((Counter(one.result()) for one in running), Counter[str]())
        seconds = time.perf_counter() - began
        pages = Pages(at.mlflow)
        found = compare(storage, range(searches), pages.all_runs(), wide_space(PARTS).goals)
        verified = Library(storage / "library", create=False).verify()
        parent = SearchFolder(storage, name_of(0)).run_ids()["parent"]
        yield {
            "kind": "beside",
            "searches": searches,
            "trials": trials,
            "processes": PROCESSES,
            "seconds": seconds,
            **{name: counts[name] for name in ("undelivered", "refused", "blocks")},
            **found,
            "library_blocks": verified.sound,
            "library_errors": len(verified.set_aside) + verified.leftovers,
            "while_running_ms": slowest_ms,
            "queries_ms": pages.queries(name_of(0), "val_accuracy", parent),
            "load": os.getloadavg()[0],
        }


def _look(mlflow: str) -> float:
    """Milliseconds of the list of the newest runs; 0 before there is an experiment."""
    began = time.perf_counter()
    try:
        Pages(mlflow).search("", "attributes.start_time DESC")
    except OSError:
        return 0.0
    return 1e3 * (time.perf_counter() - began)


def compare(
    storage: Path,
    numbers: Iterable[int],
    runs: Iterable[dict[str, Any]],
    goals: Sequence[Objective],
) -> dict[str, int]:
    """Compare MLflow's runs with the files of searches.

    Returns:
        Results without a run, runs that are there twice or belong to nothing, runs that have not
        ended, and members of fronts whose marks are wrong.
    """
    own: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        own.setdefault(run["tags"].get("theseus.search", ""), []).append(run)
    found = Counter(lost=0, doubled=0, left_running=0, marks_that_differ=0)
    for number in numbers:
        folder = SearchFolder(storage, name_of(number))
        done = [one for one in folder.outcomes() if isinstance(one, Evaluation)]
        saved = {one.architecture.id for one in done} | {"parent"}
        there = own.pop(name_of(number), [])
        names = Counter(run["tags"].get("theseus.architecture", "parent") for run in there)
        found["lost"] += len(saved - names.keys())
        found["doubled"] += names.total() - len(saved & names.keys())
        found["left_running"] += sum(run["status"] != "FINISHED" for run in there)
        front = {one.architecture.id for one in front_of(done, goals)}
        marked = {
            run["tags"]["theseus.architecture"]
            for run in there
            if run["tags"].get("theseus.front") == "true"
        }
        found["marks_that_differ"] += len(front ^ marked)
    found["doubled"] += sum(map(len, own.values()))
    return dict(found)
