"""A search killed at any point of a write goes on as if it had not been.

`python -m benchmarks.soak_points` kills at every one. It runs in a process of its own, whose
children are forks: a worker of xdist has threads, so it may not fork.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak_points import COUNTS, Undisturbed
from tests.faults.counts import Fault

ROOT = Path(__file__).parents[2]


def kill(folder: Path, sample: int) -> list[dict[str, Any]]:
    rows = folder / "rows.jsonl"
    command = [sys.executable, "-m", "benchmarks.soak_points", "--sample", str(sample),
               "--rows", str(rows)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in rows.read_text().splitlines()]


@pytest.mark.parametrize("sample", [2, pytest.param(27, marks=pytest.mark.slow)])
@pytest.mark.timeout(7200)
def test_a_search_killed_at_a_point_of_a_write(sample: int, tmp_path: Path, fault: Fault) -> None:
    rows = kill(tmp_path, sample)
    fault.kills = sum(bool(row["operation"]) for row in rows)
    fault.finished = sum(row["finished"] for row in rows)
    fault.lost, fault.doubled = (sum(row[name] for row in rows) for name in ("lost", "doubled"))
    fault.left_running = sum(row["left_running"] for row in rows)
    assert fault.kills == sample, rows
    wrong = [row for row in rows if row["notes"] or any(row[name] for name in COUNTS)]
    assert wrong == []


WORK = """
import os, sys
from pathlib import Path
from benchmarks.soak_points_kill import Operations

root = Path(sys.argv[1])
Operations(root, int(sys.argv[2]), sys.argv[3] == "half", root.parent / "log.txt").install()
(root / "inner").mkdir()
with (root / "inner" / "a").open("wb") as file:
    file.write(b"0123456789")
    file.flush()
    os.fsync(file.fileno())
os.replace(root / "inner" / "a", root / "b")
(root.parent / "outside").write_text("not counted")
"""


def work(root: Path, kill_at: int, when: str) -> int:
    root.mkdir(parents=True)
    command = [sys.executable, "-c", WORK, str(root), str(kill_at), when]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def test_every_operation_is_counted_and_one_of_them_kills(tmp_path: Path) -> None:
    assert work(tmp_path / "whole" / "root", 0, "before") == 0
    said = (tmp_path / "whole" / "log.txt").read_text().splitlines()
    assert said == ["mkdir inner", "open inner/a", "write inner/a", "fsync inner/a", "replace b"]
    assert work(tmp_path / "before" / "root", 3, "before") == -9
    assert (tmp_path / "before" / "root" / "inner" / "a").read_bytes() == b""
    assert work(tmp_path / "half" / "root", 3, "half") == -9
    assert (tmp_path / "half" / "root" / "inner" / "a").read_bytes() == b"01234"
    assert not (tmp_path / "half" / "outside").exists()


def test_a_write_has_two_points() -> None:
    whole = Undisturbed([(kind, "x") for kind in ("open", "write", "fsync")], {}, [], set(), 0)
    points = [(point.number, point.half) for point in whole.points]
    assert points == [(1, False), (2, False), (2, True), (3, False)]
