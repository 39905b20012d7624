"""kill -9 of the driver and of a worker: nothing finished is lost, nothing is doubled."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.commands import Search, check_mlflow

# Several whole searches one after the other, on what may be a busy machine.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Search:
    search = Search(tmp_path_factory.mktemp("kill") / "whole", 6)
    search.finish()
    return search


def test_a_killed_driver_goes_on_as_if_it_had_not_been(undisturbed: Search, tmp_path: Path) -> None:
    killed = Search(tmp_path / "killed", undisturbed.trials)
    kept: dict[str, tuple[dict[str, float], float]] = {}
    for count in (1, 3):
        driver = killed.start()
        killed.wait_for(count)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        now = killed.results()
        # Bit-equal with its seconds: the very same file, so it was not run again.
        assert kept.items() <= now.items()
        assert len(now) < undisturbed.trials
        kept = now
    killed.finish()
    assert kept.items() <= killed.results().items()
    assert killed.values() == undisturbed.values()
    assert killed.front() == undisturbed.front()
    check_mlflow(killed)


def test_a_killed_worker_s_trial_runs_again(undisturbed: Search, tmp_path: Path) -> None:
    search = Search(tmp_path / "worker", undisturbed.trials)
    driver = search.start()
    search.wait_for(2)
    end = time.monotonic() + 200
    while not (workers := search.workers(driver.pid)):
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(workers[0], signal.SIGKILL)
    assert driver.wait(timeout=500) == 0, (search.folder / "output.log").read_text()[-3000:]
    assert search.values() == undisturbed.values()
    assert search.front() == undisturbed.front()
    check_mlflow(search)


def test_ctrl_c_ends_at_once_and_the_same_command_goes_on(
    undisturbed: Search, tmp_path: Path
) -> None:
    search = Search(tmp_path / "interrupted", undisturbed.trials)
    driver = search.start()
    search.wait_for(2)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=60) == 130
    output = (search.folder / "output.log").read_text()
    assert "the same command goes on from here" in output and "Traceback" not in output
    search.finish()
    assert search.values() == undisturbed.values()
    check_mlflow(search)


def test_two_drivers_under_one_name(undisturbed: Search, tmp_path: Path) -> None:
    search = Search(tmp_path / "two", undisturbed.trials)
    first = search.start()
    end = time.monotonic() + 300
    while not search.storage.settings_file.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    second = search.start()
    assert second.wait(timeout=120) == 2
    assert "already running in another" in (search.folder / "output.log").read_text()
    assert first.wait(timeout=500) == 0
    assert search.values() == undisturbed.values()
