"""A file is damaged between two runs: it is noticed, and what it held is there again.

Each was found by benchmarks/soak.py; until then the search went on with what the file said.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
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
    settle(search, fault, kept, undisturbed.values())
    assert search.front() == undisturbed.front()


def test_a_damaged_copy_of_the_space_is_named(finished: Search, fault: Fault) -> None:
    path = finished.storage.space_file
    whole = path.read_bytes()
    change(path, rb"epochs=\d", fault)
    assert "searches/small/space.py is damaged" in refused(finished)
    path.write_bytes(whole)
    finished.finish()


DYING = """
import os, signal, sqlite3, sys
import sqlalchemy.engine
from nas_theseus.services.mlflow.connection import connect

@sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "before_cursor_execute")
def count(connection, cursor, statement, *others):
    global left
    left -= statement.strip().startswith("CREATE TABLE")
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

left = int(sys.argv[1])
connect("sqlite:///mlflow.db")
"""


def test_mlflow_s_tables_are_made_after_a_kill(tmp_path: Path, fault: Fault) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for created in (1, 10, 30):
        command = [sys.executable, "-c", DYING, str(created)]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, check=False)
        assert ended.returncode == -signal.SIGKILL
        fault.kills += 1
        assert not (tmp_path / "mlflow.db").exists()
    subprocess.run([*command[:-1], "1000"], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "mlflow.db").stat().st_size
