"""The driver is killed again and again at random moments: the search is as if it had not been."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults.commands import Results, Search, settle
from tests.faults.counts import Fault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

TRIALS, KILLS = 16, 20


def test_a_driver_killed_twenty_times(kind: type[Search], tmp_path: Path, fault: Fault) -> None:
    options = ("--no-rungs",)  # every trial is evaluated
    whole = kind(tmp_path / "whole", TRIALS, options)
    driver = whole.start()
    whole.wait_for(1)
    began_s = time.monotonic()
    whole.end(driver)
    again_s = trial_s = (time.monotonic() - began_s) / TRIALS
    killed = kind(tmp_path / "killed", TRIALS, options)
    rng = random.Random(0)
    kept: Results = {}
    while fault.kills < KILLS:
        began_s = time.monotonic()
        driver = killed.start()
        # Every fourth soon after a trial has ended, the others anywhere before one has.
        if fault.kills % 4 == 0:
            killed.wait_for(len(kept) + 1)
            again_s = time.monotonic() - began_s if fault.kills else again_s
            time.sleep(rng.uniform(0, trial_s))
        else:
            time.sleep(rng.uniform(0, again_s))
        driver.send_signal(signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL
        fault.kills, fault.finished = fault.kills + 1, fault.finished + len(kept)
        now = killed.results()
        # Bit-equal with its seconds: the very same file, so it was not run again.
        fault.lost += sum(now.get(name) != result for name, result in kept.items())
        kept = now
    killed.finish()
    settle(killed, fault, kept, whole.values())
    assert killed.front() == whole.front()
