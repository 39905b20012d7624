"""The clock jumps a day ahead and two days back while a search runs."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.faults.clock import SLEEP
from tests.faults.commands import PATIENCE_S, Search, runs_of, settle
from tests.faults.counts import Fault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

DAY_S = 86_400


@pytest.fixture
def offset(tmp_path: Path) -> Iterator[Path]:
    """The file that says how far the clock is off; processes that follow it end with the test.

    Ray's wait by a clock that jumped, some of them for a day, and keep the ports of later tests.
    """
    path = tmp_path / "offset"
    path.write_text("+0")
    yield path
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("FAKETIME_TIMESTAMP_FILE") == str(path):
                process.kill()


def test_the_clock_jumps(
    kind: type[Search], undisturbed: Search, tmp_path: Path, offset: Path, fault: Fault
) -> None:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("libfaketime is not installed")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a C compiler is not installed")
    source, sleep = tmp_path / "sleep.c", tmp_path / "sleep.so"
    source.write_text(SLEEP)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", sleep, source], check=True)
    # Of every process of the search, Ray's and MLflow's too; as on a real machine the monotonic
    # clock does not jump.
    clock = {
        "LD_PRELOAD": f"{sleep}:{found[0]}",
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }
    search = kind(tmp_path / "search", undisturbed.trials, environment=clock)
    driver = search.start()
    search.wait_for(1)
    offset.write_text(f"+{DAY_S}")
    wait_for_run(search, 1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    kept = search.results()
    fault.kills, fault.finished = 1, len(kept)
    offset.write_text(f"-{DAY_S}")
    driver = search.start()
    wait_for_run(search, -1)
    kept |= search.results()
    fault.finished += len(kept)
    offset.write_text("+0")
    search.end(driver)
    settle(search, fault, kept, undisturbed.values())
    assert search.front() == undisturbed.front()
    assert days_of(search) >= {-1, 1}  # the clocks did jump


def days_of(search: Search) -> set[int]:
    """How many days from now the search's runs began."""
    return {round((run.info.start_time / 1000 - time.time()) / DAY_S) for run in runs_of(search)}


def wait_for_run(search: Search, day: int) -> None:
    """Until a run is recorded that began so many days from now."""
    end = time.monotonic() + PATIENCE_S
    while day not in days_of(search):
        assert time.monotonic() < end, search.output[-3000:]
        time.sleep(0.05)
