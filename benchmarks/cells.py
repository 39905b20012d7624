"""Cells: the runs of a benchmark, of which each is kept as a line of JSON when it ends.

Tables so fill over several calls; delete a line to run its cell again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

Row = dict[str, Any]
Cell = TypeVar("Cell")  # a frozen dataclass whose fields its row has, too


def kept(path: Path) -> list[Row]:
    """The rows that are there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def finished(path: Path, kind: type[Cell]) -> dict[Cell, Row]:
    """The rows that are there, by their cells."""
    names: list[str] = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    return {kind(**{name: row[name] for name in names}): row for row in kept(path)}


def run_cells(
    cells: Iterable[Cell],
    work: Callable[[Cell], Callable[[], Row]],
    keep: Callable[[Cell, Row], str],
    jobs: int,
    deadline: float,
    *,
    threads: int | None = 1,
    once: bool = False,
) -> bool:
    """Run cells in processes of their own, several at a time.

    A cell that fails is told; the others go on, and the next call tries it again.

    Args:
        work: what a process is to call for a cell; it is pickled.
        keep: keeps a row, and says it in a few words.
        deadline: no cell begins after it, by ``time.time()``.
        threads: of a process; None leaves it to torch.
        once: a process for every cell.

    Returns:
        Whether all were run.
    """
    missing, failed = list(cells), False
    if not missing:
        return True
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    # Spawned, so that torch's thread pool is their own.
    with ProcessPoolExecutor(
        jobs, get_context("spawn"), max_tasks_per_child=1 if once else None
    ) as pool:
        running: dict[Future[Row], Cell] = {}
        while missing or running:
            while missing and len(running) < jobs and time.time() < deadline:
                cell = missing.pop(0)
                running[pool.submit(work(cell))] = cell
            if not running:
                return False
            ended = next(as_completed(running))
            cell = running.pop(ended)
            try:
                row = ended.result()
            except Exception as error:
                print(f"{cell} failed, the next run tries again: {error!r}", flush=True)
                failed = True
                continue
            print(f"{cell}: {keep(cell, row)}", flush=True)
    return not failed


def append(path: Path, row: Row) -> None:
    """Keep a row."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
