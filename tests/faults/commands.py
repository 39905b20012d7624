"""A search by its command line, started, killed and looked at from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow

from nas_theseus.search.front import read_front
from nas_theseus.storage import Storage
from nas_theseus.values import Evaluation

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


class Search:
    """The command line in a folder of its own, started and killed from outside."""

    def __init__(
        self,
        folder: Path,
        trials: int,
        options: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.trials = trials
        self.options = options
        self.environment = environment or {}
        folder.mkdir()
        (folder / "small.py").write_text(SPACE)
        self.storage = Storage(folder / "theseus", "small")

    def start(self, parallel: int = 1) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        with (self.folder / "output.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "nas_theseus.cli", "search", "small.py",
                 "--trials", str(self.trials), "--parallel", str(parallel), *self.options],
                cwd=self.folder, env=environment | {"OMP_NUM_THREADS": "1"} | self.environment,
                stdout=log, stderr=log,
                # A shell starts what it runs in the background with Ctrl-C ignored.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip

    def finish(self, parallel: int = 1) -> None:
        code = self.start(parallel).wait(timeout=500)
        assert code == 0, (self.folder / "output.log").read_text()[-3000:]

    def results(self) -> dict[str, tuple[dict[str, float], float]]:
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
        end = time.monotonic() + 300
        while len(list(self.storage.evaluations.glob("*.json"))) < count:
            assert time.monotonic() < end, (self.folder / "output.log").read_text()[-3000:]
            time.sleep(0.02)

    def workers(self, driver: int) -> list[int]:
        """Process ids below the driver whose title is the trial's actor."""
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

        return [p for p, title in titles.items() if "JobTrial" in title and below(p)]


def check_mlflow(search: Search) -> None:
    """One finished run an evaluation and one of the search, the front marked, nothing waiting."""
    local = f"sqlite:///{search.folder / 'mlflow.db'}"
    client = mlflow.MlflowClient(search.environment.get("MLFLOW_TRACKING_URI", local))
    experiment = client.get_experiment_by_name("nas-theseus")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    names = [r.data.tags.get("theseus.architecture") for r in runs]
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert sorted(n for n in names if n) == sorted(search.results())
    assert names.count(None) == 1
    front = {r.data.tags["theseus.architecture"] for r in runs
             if r.data.tags.get("theseus.front") == "true"}  # fmt: skip
    assert front == set(search.front())
    assert not list(search.storage.outbox.glob("*.json"))
