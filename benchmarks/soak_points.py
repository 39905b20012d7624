"""Kill a short search at each of its file operations, and give the same command again.

    python -m benchmarks.soak_points            # every operation; it goes on where it was ended
    python -m benchmarks.soak_points --sample 8 # eight of them

A search runs in this process (`--executor inline`), so that driver and worker die as one. It is
killed before its n-th file operation, for every n; if that is a write, it is also killed after half
of the bytes. Then the same command is given again and must end as if nothing had happened.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, BinaryIO

from benchmarks.record import RESULTS, write_record
from benchmarks.soak_points_kill import Operations
from nas_theseus.library.store import Library
from nas_theseus.storage.json_lines import JsonLines
from tests.faults.commands import Driver, Inline, Results, check_mlflow, runs_of, study_of
from tests.faults.forked import Forked

ROWS = RESULTS / "soak_points.jsonl"
TRIALS = 3
TRACKERS = ("json-lines", "mlflow")
DAY_S = 86_400

SPACE = """
from torch import nn
from nas_theseus import Recipe, SearchSpace, cut
from nas_theseus.blocks import Keep, Linear
from nas_theseus.tasks import digits


def space():
    def conv(inlet, outlet, stride=1):
        return nn.Sequential(
            nn.Conv2d(inlet, outlet, 3, stride, 1), nn.BatchNorm2d(outlet), nn.ReLU()
        )

    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    net = nn.Sequential(conv(1, 4, 2), conv(4, 8, 2), head)
    return SearchSpace(
        guide=cut(net, ["0", "1"], (1, 8, 8)),
        task=digits(),
        blocks=[Keep(), Linear()],
        keep=["head"],
        guide_training=Recipe(epochs=1, distill=0, batch_size=256),
        recipe=Recipe(epochs=1, align_steps=2, align_examples=64, batch_size=256),
    )
"""

# What a search imports on its way, so that a child has it at once.
MODULES = ("torchmetrics", "sklearn.datasets", "plotly.graph_objects", "matplotlib.figure")
ROOMS = ("api", "candidate", "cli.commands", "conversion", "costs.measures", "estimate", "export",
         "library", "pictures", "searches", "searches.sections", "services.optuna",
         "services.optuna.samplers", "services.executors", "services.trackers", "space",
         "tasks", "tasks.metrics")  # fmt: skip


@dataclass(frozen=True)
class Point:
    """Where a search is killed: before its n-th operation, or in the middle of it."""

    number: int
    half: bool = False


@dataclass
class Row:
    """What came of one kill; every count but `finished` must be 0.

    Attributes:
        operation, path: what was about to happen, and to which file below the search's root.
        finished: results that were saved by then.
        lost, doubled: of them, those that were gone afterwards, or recorded twice.
        left_running: trials and runs left RUNNING at the end.
        front_differs, values_differ: from the search that nothing disturbed.
        library_errors: entries that were set aside, or that are missing.
        left_over: files that nothing removes, though they are two days old.
    """

    tracker: str
    number: int
    half: bool
    operation: str = ""
    path: str = ""
    finished: int = 0
    lost: int = 0
    doubled: int = 0
    left_running: int = 0
    front_differs: int = 0
    values_differ: int = 0
    library_errors: int = 0
    left_over: int = 0
    notes: list[str] = field(default_factory=list)


COUNTS = ("lost", "doubled", "left_running", "front_differs", "values_differ", "library_errors",
          "left_over")  # fmt: skip


class Pointed(Inline):
    """A search in a child of this process, which is killed at a point."""

    operations: Operations | None = None

    def _driver(self, arguments: list[str], environment: dict[str, str], log: BinaryIO) -> Driver:
        operations, self.operations = self.operations, None
        arguments = [*arguments, "--executor", "inline"]
        prepare = (lambda: None) if operations is None else operations.install
        return Forked(arguments, self.folder, environment, log.fileno(), prepare)

    @property
    def root(self) -> Path:
        """Everything that the search writes: its folder, its temporary files, the user's state."""
        return self.folder.parent

    def files(self) -> set[str]:
        """Names of all files but the output, the random parts of names left out."""
        found = {str(path.relative_to(self.root)) for path in self.root.rglob("*")
                 if path.is_file() or path.is_symlink()}  # fmt: skip
        return found - {f"{self.folder.name}/output.log"}


def begin(root: Path, tracker: str) -> Pointed:
    """A new search in a folder of its own."""
    shutil.rmtree(root, ignore_errors=True)
    (root / "tmp").mkdir(parents=True)
    environment = {"TMPDIR": str(root / "tmp"), "MPLCONFIGDIR": str(root.parent / "matplotlib")}
    options = ("--tracker", tracker)
    return Pointed(root / "search", TRIALS, options, environment, text=SPACE)


@dataclass(frozen=True)
class Undisturbed:
    """The search that nothing disturbs, and its operations."""

    operations: list[tuple[str, str]]
    results: Results
    front: list[str]
    files: set[str]
    blocks: int

    @property
    def points(self) -> Iterator[Point]:
        for number, (kind, _) in enumerate(self.operations, 1):
            yield Point(number)
            if kind == "write":
                yield Point(number, half=True)


def undisturbed(folder: Path, tracker: str) -> Undisturbed:
    """Run the search once, and list its operations."""
    search = begin(folder / "whole", tracker)
    log = folder / "operations.txt"
    log.unlink(missing_ok=True)
    search.operations = Operations(search.root, log=log)
    search.finish()
    lines = [line.split(" ", 1) for line in log.read_text().splitlines()]
    verified = Library(search.storage.library, create=False).verify()
    assert verified.sound and not verified.set_aside
    operations = [(kind, path) for kind, path in lines]
    return Undisturbed(operations, search.results(), search.front(), search.files(), verified.sound)


def kill_at(point: Point, whole: Undisturbed, folder: Path, tracker: str) -> Row:
    """Kill a new search at a point, give its command again, and count what is wrong."""
    row = Row(tracker, point.number, point.half)
    search = begin(folder / "killed", tracker)
    log = folder / "killed.txt"
    log.unlink(missing_ok=True)
    search.operations = Operations(search.root, point.number, point.half, log)
    ended = search.start().wait(600)
    lines = log.read_text().splitlines()
    if ended != -signal.SIGKILL:
        row.notes.append(f"not killed: it ended with {ended} after {len(lines)} operations")
        return row
    row.operation, row.path = lines[-1].split(" ", 1)
    kept = search.results() if search.storage.settings_file.exists() else {}
    row.finished = len(kept)
    ended = search.start().wait(600)
    if ended != 0 or "Traceback" in search.output:
        row.notes.append(f"the same command ended with {ended}: {search.output[-2000:]}")
        row.values_differ += 1
        return row
    judge(row, search, kept, whole)
    return row


def judge(row: Row, search: Pointed, kept: Results, whole: Undisturbed) -> None:
    """Check every invariant, independently of what the search says."""
    now = search.results()
    row.lost = sum(now.get(name) != result for name, result in kept.items())
    values = {name: result[0] for name, result in now.items()}
    row.values_differ = int(values != {name: r[0] for name, r in whole.results.items()})
    row.front_differs = int(search.front() != whole.front)
    trials = study_of(search).get_trials(deepcopy=False)
    told = Counter(
        trial.user_attrs["theseus:architecture"]
        for trial in trials
        if trial.state.name == "COMPLETE" and "theseus:repeated" not in trial.user_attrs
    )
    row.left_running = sum(trial.state.name == "RUNNING" for trial in trials)
    recorded = _recorded(search, row)
    row.doubled = sum(count - 1 for counts in (told, recorded) for count in counts.values())
    if set(recorded) != set(now) or set(told) != set(now):
        row.values_differ += 1
        row.notes.append(f"told {sorted(told)}, recorded {sorted(recorded)}, found {sorted(now)}")
    found = Library(search.storage.library, create=False).verify()
    row.library_errors = len(found.set_aside) + abs(found.sound - whole.blocks)
    _count_left_over(row, search, whole)


def _recorded(search: Pointed, row: Row) -> Counter[str]:
    """How often the tracker has each evaluation."""
    if row.tracker == "mlflow":
        runs = runs_of(search)
        row.left_running += sum(run.info.status == "RUNNING" for run in runs)
        try:
            check_mlflow(search)
        except AssertionError as error:
            row.values_differ += 1
            row.notes.append(f"MLflow: {error}")
        names = [run.data.tags.get("theseus.architecture") for run in runs]
        return Counter(name for name in names if name is not None)
    lines = JsonLines(search.storage.folder / "records.jsonl").read()
    return Counter(line["architecture"] for line in lines if line["kind"] == "evaluation")


def _count_left_over(row: Row, search: Pointed, whole: Undisturbed) -> None:
    """Files that the undisturbed search does not have, and that nothing removes later."""
    extra = _strange(search, whole)
    if not extra:
        return
    for name in extra:
        with suppress(FileNotFoundError):
            when = time.time() - 2 * DAY_S
            os.utime(search.root / name, (when, when), follow_symlinks=False)
    Library(search.storage.library, create=False).prune()
    search.finish()  # the next launch removes what is old in folders that searches share
    extra = _strange(search, whole)
    row.left_over = len(extra)
    row.notes += [f"left over: {name}" for name in sorted(extra)]


def _strange(search: Pointed, whole: Undisturbed) -> set[str]:
    """Files beyond those of the undisturbed search; MLflow's are its own, ``.torn`` are meant."""
    return {
        name
        for name in search.files() - whole.files
        if "/mlruns/" not in name and not name.endswith(".torn")
    }


def preload() -> None:
    """Import what a search does, so that every child has it."""
    for room in ROOMS:
        package = import_module(f"nas_theseus.{room}")
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            with suppress(ImportError):
                import_module(found.name)
    for name in MODULES:
        import_module(name)


def run(
    rows: JsonLines, trackers: Sequence[str], sample: int | None, folder: Path
) -> dict[str, int]:
    """Kill at all points that have no row yet, or at some; returns how many points there are."""
    preload()
    counts = {}
    for tracker in trackers:
        whole = undisturbed(folder, tracker)
        points = [*whole.points]
        counts[tracker] = len(points)
        Random(0).shuffle(points)  # so that a run that was ended has some of everywhere
        if sample is not None:
            points = points[:sample]
        # What was found and mended is killed again, first.
        known = {
            (row["tracker"], row["number"], row["half"]): row
            for row in rows.read()
            if "numbering" not in row  # when the operations were numbered otherwise
        }
        again = {key for key, row in known.items() if row.get("mended")}
        done = known.keys() - again
        points.sort(key=lambda point: (tracker, point.number, point.half) not in again)
        for point in points:
            if (tracker, point.number, point.half) not in done:
                row = kill_at(point, whole, folder, tracker)
                rows.append(asdict(row))
                wrong = {name: count for name in COUNTS if (count := getattr(row, name))}
                where = f"{row.number}{' half' * row.half} {row.operation} {row.path}"
                print(f"{tracker} {where}: {wrong or 'as undisturbed'}", flush=True)
    return counts


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Sums over all kills."""
    killed = [row for row in rows if row["operation"]]
    now = [row for row in rows if not row.get("mended")]
    return {
        "write_points_killed": len(killed),
        "in_the_middle_of_a_write": sum(row["half"] for row in killed),
        "points_killed_since_last_mended": sum(not row.get("mended") for row in killed),
        **{name: sum(row[name] for row in now) for name in COUNTS},
        "found_and_mended": sum(row[name] for row in rows if row.get("mended") for name in COUNTS),
    }


def main() -> None:
    """Kill, or only report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tracker", choices=TRACKERS, action="append")
    parser.add_argument("--sample", type=int, help="so many points; default: all")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--report", action="store_true", help="only sum up the rows")
    given = parser.parse_args()
    rows = JsonLines(given.rows)
    if not given.report:
        trackers = given.tracker or TRACKERS[:1]
        with tempfile.TemporaryDirectory(prefix="soak-points-") as folder:
            print(run(rows, trackers, given.sample, Path(folder)))
    if given.rows != ROWS:
        return
    found = [*rows.read()]
    notes = {
        "cells": "in soak_points.jsonl, one row a kill; those of before a fault was mended say so",
        "points": "taken in random order; a whole run tells how many there are",
        "unseen": "writes by C code: SQLite, descriptors given to encoders of pictures",
    }
    write_record("soak_points", figures(found), [], [0], notes, ("torch", "optuna", "mlflow"))


if __name__ == "__main__":
    main()
