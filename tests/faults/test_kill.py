"""kill -9 of the driver and of a worker: nothing finished is lost, nothing is doubled."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.commands import PATIENCE_S, Results, Search, settle
from tests.faults.counts import Fault

# Several whole searches one after the other, on what may be a busy machine.
pytestmark = pytest.mark.timeout(3600)


def test_a_killed_driver_goes_on_as_if_it_had_not_been(
    undisturbed: Search, tmp_path: Path, fault: Fault
) -> None:
    killed = Search(tmp_path / "killed", undisturbed.trials)
    kept: Results = {}
    for count in (1, 3):
        driver = killed.start()
        killed.wait_for(count)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        now = killed.results()
        assert kept.items() <= now.items()
        assert len(now) < undisturbed.trials
        kept = now
        fault.kills, fault.finished = fault.kills + 1, fault.finished + len(kept)
    killed.finish()
    settle(killed, fault, kept, undisturbed.values())
    assert killed.front() == undisturbed.front()


def test_a_killed_worker_s_trial_runs_again(
    undisturbed: Search, tmp_path: Path, fault: Fault
) -> None:
    search = Search(tmp_path / "worker", undisturbed.trials)
    driver = search.start()
    search.wait_for(2)
    end = time.monotonic() + PATIENCE_S
    while not (workers := search.workers(driver.pid)):
        assert time.monotonic() < end
        time.sleep(0.02)
    kept = search.results()
    os.kill(workers[0], signal.SIGKILL)
    fault.kills, fault.finished = 1, len(kept)
    search.end(driver)
    settle(search, fault, kept, undisturbed.values())
    assert search.front() == undisturbed.front()


def test_ctrl_c_ends_at_once_and_the_same_command_goes_on(
    undisturbed: Search, tmp_path: Path, fault: Fault
) -> None:
    search = Search(tmp_path / "interrupted", undisturbed.trials)
    driver = search.start()
    search.wait_for(2)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=300) == 130
    assert "the same command continues from here" in search.output
    assert "Traceback" not in search.output
    kept = search.results()
    fault.finished = len(kept)
    search.finish()
    settle(search, fault, kept, undisturbed.values())


def test_two_drivers_under_one_name(undisturbed: Search, tmp_path: Path, fault: Fault) -> None:
    search = Search(tmp_path / "two", undisturbed.trials)
    first = search.start()
    end = time.monotonic() + PATIENCE_S
    while not search.storage.settings_file.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    second = search.start()
    assert second.wait(timeout=600) == 2
    assert "already running in another" in search.output
    search.end(first)
    settle(search, fault, {}, undisturbed.values())
