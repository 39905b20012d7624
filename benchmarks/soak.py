"""Random searches under random faults, for minutes or hours, and whether anything was lost.

    python -m benchmarks.soak --minutes 60 --jobs 2     run cells, from the first that has no row
    python -m benchmarks.soak --cell 17 --keep          run one again, and keep its folder
    python -m benchmarks.soak --report                  write figures and table alone

A cell is one search (`soak_draw`): its space, sampler, executor, library, study and tracker are
drawn from ``--seed`` and the cell's number, and so are the faults that disturb it: kill -9 of
driver, worker, node, Ray's head and servers, processes that stand still for seconds, a full disk, a
slow one, a clock that jumps, damaged files, connections that are reset or slow, a second driver.
When a driver has ended, the same command is given again, until the search finishes. Then one
function (`soak_check.check`) compares files, study, library and MLflow with each other and with an
undisturbed search.

Each row is kept in results/soak_cells.jsonl when its cell ends; a later row replaces an earlier one
of the same cell in the figures. Needs the dependency group ``services``; it is run as root, since
it mounts small disks to fill them.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.cells import append, kept
from benchmarks.record import RESULTS, commit
from benchmarks.soak_cell import TABLES, run_cell
from benchmarks.soak_report import report, told
from benchmarks.soak_spaces import SPACES
from nas_theseus.cli import app as cli
from nas_theseus.services.mlflow.connection import connect

CELLS = RESULTS / "soak_cells.jsonl"
# What services need beside what a search without them imports.
_MORE = (
    "psycopg",
    "s3fs",
    "sqlalchemy.dialects.postgresql.psycopg",
    "mlflow.store.artifact.s3_artifact_repo",
)
CELL_LIMIT_S = 3600.0


def preload(folder: Path, tables: Path) -> None:
    """Import all that a search imports, so that the children of this process start at once.

    Args:
        tables: SQLite file in which MLflow's tables are made.
    """
    names = folder / "modules"
    pid = os.fork()
    if pid == 0:
        try:
            log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.chdir(folder)
            for name, text in SPACES.items():
                Path(f"{name}.py").write_text(text)
                sys.argv = ["nas-theseus", "search", f"{name}.py", "--trials", "2", "--executor",
                            "inline", "--study", f"sqlite:///{name}.db"]  # fmt: skip
                with suppress(SystemExit):
                    cli.main()
            connect(f"sqlite:///{tables}")
            names.write_text("\n".join(sys.modules))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    for name in [*names.read_text().split("\n"), *_MORE]:
        # Modules of the space files, and some that are imported under names of their own.
        with suppress(ImportError, AttributeError):
            importlib.import_module(name)
    if threading.active_count() > 1:
        raise RuntimeError(f"a child of threads cannot be forked: {threading.enumerate()}")


class Worker:
    """A child that runs one cell."""

    def __init__(self, seed: int, cell: int, root: Path) -> None:
        self.seed, self.cell = seed, cell
        self.folder = Path(tempfile.mkdtemp(prefix=f"{cell}-", dir=root))
        self.folder.chmod(0o755)
        self.began = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                row = run_cell(seed, cell, self.folder, root / "shared")
                (self.folder / "row.json").write_text(json.dumps(row))
            except BaseException as error:  # of pytest too, which skips where a server is missing
                row = {"seed": seed, "cell": cell, "error": repr(error)}
                (self.folder / "row.json").write_text(json.dumps(row))
            finally:
                os._exit(0)

    def ended(self) -> bool:
        """Whether the child has ended; one that takes too long is ended here."""
        if time.monotonic() - self.began > CELL_LIMIT_S:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return os.waitpid(self.pid, os.WNOHANG)[0] != 0

    def row(self) -> dict[str, Any]:
        path = self.folder / "row.json"
        if path.exists():
            row: dict[str, Any] = json.loads(path.read_text())
            return row
        return {"seed": self.seed, "cell": self.cell, "error": "it ended without a row"}


def run(seed: int, cells: Iterator[int], jobs: int, deadline: float, keep: bool) -> None:
    """Run cells, several at a time; none begins after the deadline."""
    # Readable by the user as which PostgreSQL runs.
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    root.chmod(0o755)
    for name in ("shared", "preload"):
        (root / name).mkdir()
    began = commit()
    try:
        preload(root / "preload", root / "shared" / TABLES)
        running: list[Worker] = []
        while True:
            while len(running) < jobs and time.time() < deadline:
                cell = next(cells, None)
                if cell is None:
                    break
                running.append(Worker(seed, cell, root))
            if not running:
                return
            time.sleep(0.1)
            for worker in [worker for worker in running if worker.ended()]:
                running.remove(worker)
                row = {**worker.row(), "commit": began}
                append(CELLS, row)
                print(told(row), flush=True)
                if not keep:
                    shutil.rmtree(worker.folder, ignore_errors=True)
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)


def main() -> None:
    """Run cells for some minutes, or one of them; then write figures and table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10.0, help="no cell begins after them")
    parser.add_argument("--jobs", type=int, default=1, help="cells at once")
    parser.add_argument("--cell", type=int, nargs="*", help="run these, whether or not they ran")
    parser.add_argument("--keep", action="store_true", help="keep the cells' folders")
    parser.add_argument("--report", action="store_true", help="run nothing")
    given = parser.parse_args()
    if not given.report:
        done = {row["cell"] for row in kept(CELLS) if row["seed"] == given.seed}
        cells = iter(given.cell or (n for n in itertools.count() if n not in done))
        run(given.seed, cells, given.jobs, time.time() + 60 * given.minutes, given.keep)
    report(kept(CELLS))


if __name__ == "__main__":
    main()
