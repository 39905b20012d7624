"""A search by its command line, started, killed and looked at from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, TypeAlias

import mlflow
import optuna
from mlflow.entities import Run
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState

from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_files import read_front
from nas_theseus.services.optuna.journal import open_journal
from nas_theseus.values.outcomes import Evaluation
from tests.faults.counts import Fault
from tests.faults.forked import Forked

ROOT = Path(__file__).parents[2]
# Each architecture's values and its seconds: bit-equal only where the very same run made them.
Results: TypeAlias = dict[str, tuple[dict[str, float], float]]

SPACE = """
from torch import nn
from nas_theseus import Recipe, SearchSpace, choice, cut
from nas_theseus.blocks import Basic, Depthwise, Keep, Linear
from nas_theseus.tasks import digits


def space():
    def conv(inlet, outlet, stride=1):
        return nn.Sequential(
            nn.Conv2d(inlet, outlet, 3, stride, 1), nn.BatchNorm2d(outlet), nn.ReLU()
        )

    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    net = nn.Sequential(conv(1, 8), conv(8, 8), conv(8, 16, 2), head)
    return SearchSpace(
        guide=cut(net, ["0", "1", "2"], (1, 8, 8)),
        task=digits(),
        blocks=[Keep(), Basic(width=choice(0.5, 1)), Depthwise(expand=choice(1, 2)), Linear()],
        max_span=2,
        guide_training=Recipe(epochs=2, distill=0, batch_size=64),
        recipe=Recipe(epochs=2, align_steps=5, align_examples=256, batch_size=64),
    )
"""


# On a busy machine; a test that waits for what never comes ends with its last words.
PATIENCE_S = 1500.0


Driver: TypeAlias = "subprocess.Popen[bytes] | Forked"


class Search:
    """The command line in a folder of its own, started and killed from outside."""

    def __init__(
        self,
        folder: Path,
        trials: int,
        options: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        *,
        storage: Path | None = None,
        text: str = SPACE,
    ) -> None:
        self.folder = folder
        self.trials = trials
        self.options = options if storage is None else (*options, "--storage", str(storage))
        self.environment = environment or {}
        folder.mkdir()
        (folder / "small.py").write_text(text)
        self.storage = SearchFolder(storage or folder / "theseus", "small")

    def start(self, parallel: int = 1) -> Driver:
        with (self.folder / "output.log").open("ab") as log:
            return self._driver(
                ["search", "small.py", "--trials", str(self.trials), "--parallel", str(parallel),
                 *self.options],
                {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
                | {"OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(self.folder.parent)}
                | self.environment,
                log,
            )  # fmt: skip

    def _driver(self, arguments: list[str], environment: dict[str, str], log: BinaryIO) -> Driver:
        return subprocess.Popen(
            [sys.executable, "-m", "nas_theseus", *arguments],
            cwd=self.folder, env=environment, stdout=log, stderr=log,
            # A shell starts what it runs in the background with Ctrl-C ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    @property
    def output(self) -> str:
        """What all its drivers have said."""
        return (self.folder / "output.log").read_text()

    def end(self, driver: Driver) -> None:
        """Wait until it is done."""
        assert driver.wait(timeout=PATIENCE_S) == 0, self.output[-3000:]

    def finish(self, parallel: int = 1) -> None:
        self.end(self.start(parallel))

    def results(self) -> Results:
        found = {}
        for outcome in self.storage.outcomes():
            assert isinstance(outcome, Evaluation), outcome
            found[outcome.architecture.id] = (outcome.values(), outcome.seconds)
        return found

    def values(self) -> dict[str, dict[str, float]]:
        return {name: values for name, (values, _) in self.results().items()}

    def front(self) -> list[str]:
        return [m.evaluation.architecture.id for m in read_front(self.storage)]

    def wait_for(self, count: int) -> None:
        """Until so many results are kept."""
        end = time.monotonic() + PATIENCE_S
        while len(list(self.storage.evaluations.glob("*.json"))) < count:
            assert time.monotonic() < end, self.output[-3000:]
            time.sleep(0.02)

    def workers(self, driver: int) -> list[int]:
        """Process ids below the driver whose title is the trial's actor.

        While it works, Ray names it by the class that Tune wraps around it.
        """
        parents: dict[int, int] = {}
        titles: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    titles[int(entry.name)] = (entry / "cmdline").read_text()
                except OSError:
                    continue
                parents[int(entry.name)] = int(fields[1])

        def below(pid: int) -> bool:
            while pid in parents:
                if pid == driver:
                    return True
                pid = parents[pid]
            return False

        actors = ("JobTrial", "ResourceTrainable")
        return [p for p, t in titles.items() if any(a in t for a in actors) and below(p)]


class Inline(Search):
    """The same in one process: driver and worker, which die as a whole."""

    def _driver(self, arguments: list[str], environment: dict[str, str], log: BinaryIO) -> Driver:
        arguments = [*arguments, "--executor", "inline"]
        # LD_PRELOAD is for a new program alone, and a worker of xdist has threads: no fork of it.
        if {"LD_PRELOAD", "PYTEST_XDIST_WORKER"} & environment.keys():
            return super()._driver(arguments, environment, log)
        return Forked(arguments, self.folder, environment, log.fileno())


def study_of(search: Search) -> optuna.Study:
    """Its study, in the journal or in the database that it was given."""
    url = search.environment.get("NAS_THESEUS_STUDY")
    storage: BaseStorage = RDBStorage(url) if url else open_journal(search.storage.journal)
    return optuna.load_study(study_name=search.storage.name, storage=storage)


def runs_of(search: Search) -> list[Run]:
    """All its runs in MLflow."""
    local = f"sqlite:///{search.folder / 'mlflow.db'}"
    client = mlflow.MlflowClient(search.environment.get("MLFLOW_TRACKING_URI", local))
    experiment = client.get_experiment_by_name("nas-theseus")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def settle(search: Search, fault: Fault, kept: Results, expected: Mapping[str, object]) -> None:
    """Count what came of a search that has ended, and refuse any loss or doubling.

    Args:
        kept: results that were there at the faults; each must still be the very same.
        expected: values by architecture of the undisturbed search.
    """
    now = search.results()
    fault.lost += sum(now.get(name) != result for name, result in kept.items())
    runs = runs_of(search)
    recorded = Counter(run.data.tags.get("theseus.architecture") for run in runs)
    trials = study_of(search).get_trials(deepcopy=False)
    # A proposal that means a known architecture is told its result and marked so.
    told = Counter(
        trial.user_attrs["theseus:architecture"]
        for trial in trials
        if trial.state == TrialState.COMPLETE and "theseus:repeated" not in trial.user_attrs
    )
    fault.doubled += sum(count - 1 for counts in (recorded, told) for count in counts.values())
    fault.left_running += sum(run.info.status == "RUNNING" for run in runs)
    fault.left_running += sum(trial.state == TrialState.RUNNING for trial in trials)
    assert (fault.lost, fault.doubled, fault.left_running) == (0, 0, 0)
    assert search.values() == expected
    check_mlflow(search)


def check_mlflow(search: Search) -> None:
    """One finished run an evaluation and one of the search, the front marked, nothing waiting."""
    runs = runs_of(search)
    names = [r.data.tags.get("theseus.architecture") for r in runs]
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert sorted(n for n in names if n) == sorted(search.results())
    assert names.count(None) == 1
    front = {r.data.tags["theseus.architecture"] for r in runs
             if r.data.tags.get("theseus.front") == "true"}  # fmt: skip
    assert front == set(search.front())
    assert not list(search.storage.outbox.glob("*.json"))
