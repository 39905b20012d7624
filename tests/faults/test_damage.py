"""A file is damaged between two runs: it is noticed, and what it held is there again.

Each was found by benchmarks/soak.py; until then the search went on with what the file said.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.commands import PATIENCE_S, ROOT, Inline, Search, settle
from tests.faults.counts import Fault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture
def finished(undisturbed: Search, tmp_path: Path) -> Search:
    """A copy of the undisturbed search."""
    copy = Inline(tmp_path / "copy", undisturbed.trials)
    shutil.copytree(undisturbed.folder, copy.folder, dirs_exist_ok=True)
    return copy


def change(path: Path, pattern: bytes, fault: Fault) -> None:
    """Flip the lowest bit of the last byte that a pattern matches."""
    content = bytearray(path.read_bytes())
    found = re.search(pattern, content, re.DOTALL)
    assert found is not None
    content[found.end() - 1] ^= 1
    path.write_bytes(bytes(content))
    fault.kills += 1


def refused(search: Search) -> str:
    """The message with which it ends."""
    before = len(search.output)
    assert search.start().wait(timeout=PATIENCE_S) == 2, search.output[before:]
    said = search.output[before:]
    assert "Traceback" not in said
    return said.rpartition("error: ")[2]


def test_a_damaged_result_is_run_again(finished: Search, undisturbed: Search, fault: Fault) -> None:
    kept = finished.results()
    name = finished.front()[0]
    fault.finished = len(kept)
    del kept[name]
    (path,) = finished.storage.evaluations.glob(f"{name}-*.json")
    change(path, rb'"val_accuracy": 0\.\d', fault)
    finished.finish()
    settle(finished, fault, kept, undisturbed.values())
    assert finished.front() == undisturbed.front()


def test_damaged_weights_of_the_front_are_made_again(
    finished: Search, undisturbed: Search, fault: Fault
) -> None:
    name = finished.front()[0]
    (weights,) = finished.storage.weights.glob(f"{name}-*.safetensors")
    whole = weights.read_bytes()
    change(weights, b".*", fault)
    named = re.search(r"are damaged: .*delete (evaluations/\S+\.json)", refused(finished))
    assert named is not None and name in named[1]
    (finished.storage.folder / named[1]).unlink()
    finished.finish()
    assert weights.read_bytes() == whole
    settle(finished, fault, {}, undisturbed.values())


def test_a_damaged_guide_is_trained_again(
    finished: Search, undisturbed: Search, fault: Fault
) -> None:
    (guide,) = finished.storage.guides.glob("*.safetensors")
    whole = guide.read_bytes()
    change(guide, b".*", fault)
    assert f"{guide.name} is damaged" in (said := refused(finished))
    assert "Delete this file" in said
    guide.unlink()
    finished.finish()
    assert guide.read_bytes() == whole
    settle(finished, fault, finished.results(), undisturbed.values())


def test_a_damaged_study_is_cut_and_told_the_results_again(
    undisturbed: Search, tmp_path: Path, fault: Fault
) -> None:
    search = Inline(tmp_path / "search", undisturbed.trials)
    driver = search.start()
    search.wait_for(4)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    kept = search.results()
    fault.finished = len(kept)
    journal = search.storage.journal
    # The value of the second trial that has one.
    change(journal, rb'.*?"values":\[.*?"values":\[0\.\d', fault)
    told = re.search(r"before it: (cp .*)\. Saved results", refused(search))
    assert told is not None
    subprocess.run(told[1], shell=True, check=True, cwd=search.folder)
    search.finish()
    # The sampler `theseus` leaves out known architectures, so that it may go on with others.
    settle(search, fault, kept, search.values())
    assert len(search.values()) == search.trials


def test_a_damaged_copy_of_the_space_is_named(finished: Search, fault: Fault) -> None:
    path = finished.storage.space_file
    whole = path.read_bytes()
    change(path, rb"epochs=\d", fault)
    assert "searches/small/space.py is damaged" in refused(finished)
    path.write_bytes(whole)
    finished.finish()


DYING = """
import os, signal, sys
import sqlalchemy.engine
from nas_theseus.services.mlflow.connection import connect
from nas_theseus.services.optuna.storage import open_storage

@sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "before_cursor_execute")
def count(connection, cursor, statement, *others):
    global left
    left -= statement.strip().startswith("CREATE")
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

left = int(sys.argv[1])
{"mlflow": connect, "optuna": open_storage}[sys.argv[2]](f"sqlite:///{sys.argv[2]}.db")
"""


@pytest.mark.parametrize(("library", "made"), [("mlflow", (1, 10, 30)), ("optuna", (1, 2, 9))])
def test_a_library_s_tables_are_made_after_a_kill(
    library: str, made: Sequence[int], tmp_path: Path, fault: Fault
) -> None:
    """After its first table Optuna would not make the index that keeps names of studies apart."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    file = tmp_path / f"{library}.db"
    for created in (*made, 1000):
        command = [sys.executable, "-c", DYING, str(created), library]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, check=False)
        killed = created < 1000
        assert ended.returncode == (-signal.SIGKILL if killed else 0)
        fault.kills += killed
        assert file.exists() != killed
    with closing(sqlite3.connect(file)) as whole:
        assert whole.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        names = {name for (name,) in whole.execute("SELECT name FROM sqlite_master")}
    assert names > ({"ix_studies_study_name", "trials"} if library == "optuna" else {"runs"})
