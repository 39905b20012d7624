"""kill -9 of a worker at every stage of its work: its job runs again, and nothing else changes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults.commands import PATIENCE_S, SPACE, Inline, Search, settle
from tests.faults.counts import Fault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

# What the worker of SPACE comes to; the rungs are `converted` and `epoch_1`.
STAGES = {
    "BlockKey begins",
    "BlockKey convert block",
    "BlockKey in the library",
    "BlockKey ends",
    "Architecture begins",
    "Architecture assemble",
    "Architecture take blocks",
    "Architecture recalibrate",
    "Architecture finetune",
    "Architecture converted",
    "Architecture epoch_1",
    "Architecture measure",
    "Architecture weights written",
    "Architecture ends",
}

# In the space file, which runs in every worker: each stage kills one worker, each job at most two.
DYING = """
import os, shutil, signal
from pathlib import Path
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.worker import Worker
from nas_theseus.values.events import Ended

if "DEATHS" in os.environ and not hasattr(Worker, "plain"):
    DEATHS = Path(os.environ["DEATHS"])
    Worker.plain = Worker.__call__
    job = storage = None

    def come_to(place):
        stage = f"{type(job).__name__} {place}"
        if (DEATHS / stage).exists() or len(list(DEATHS.glob(f"*/{job.id}"))) == 2:
            return
        shutil.copytree(storage.evaluations, DEATHS / stage)
        (DEATHS / stage / job.id).touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def dying(self, given):
        global job, storage
        job, storage = given, self._settings.storage
        come_to("begins")
        for event in self.plain(job):
            come_to("ends" if isinstance(event, Ended) else getattr(event, "rung", event))
            yield event

    def before(method, place):
        def called(self, outcome):
            if job is not None:
                come_to(place)
            return method(self, outcome)
        return called

    Worker.__call__ = dying
    SearchFolder.write_outcome = before(SearchFolder.write_outcome, "weights written")
    SearchFolder.write_block = before(SearchFolder.write_block, "in the library")
"""


def test_a_worker_killed_in_each_stage(
    kind: type[Search], undisturbed: Search, tmp_path: Path, fault: Fault
) -> None:
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    search = kind(
        tmp_path / "search", undisturbed.trials, environment={"DEATHS": str(deaths)},
        text=DYING + SPACE,
    )  # fmt: skip
    # Without Ray driver and worker are one process, which is started again.
    while (code := search.start().wait(timeout=PATIENCE_S)) == -signal.SIGKILL:
        assert kind is Inline
    assert code == 0, search.output[-3000:]
    assert {path.name for path in deaths.iterdir()} == STAGES
    for death in deaths.iterdir():
        fault.kills += 1
        for path in death.glob("*.json"):
            fault.finished += 1
            fault.lost += (search.storage.evaluations / path.name).read_bytes() != path.read_bytes()
    settle(search, fault, {}, undisturbed.values())
    assert search.front() == undisturbed.front()
