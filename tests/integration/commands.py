"""The command line as users run it, in a folder with a small space file on real digits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_files import read_front
from nas_theseus.values.outcomes import Evaluation

SPACE = """
from torch import nn
from nas_theseus import Recipe, SearchSpace, choice, cut
from nas_theseus.blocks import Basic, Depthwise, Identity, Keep, Linear
from nas_theseus.tasks import digits


def conv(inlet, outlet, stride=1):
    return nn.Sequential(
        nn.Conv2d(inlet, outlet, 3, stride, 1), nn.BatchNorm2d(outlet), nn.ReLU()
    )


def space():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    net = nn.Sequential(conv(1, 8), conv(8, 8), conv(8, 16, 2), head)
    return SearchSpace(
        guide=cut(net, ["0", "1", "2"], (1, 8, 8)),
        task=digits(),
        blocks=[Keep(), Basic(width=choice(0.5, 1)), Depthwise(expand=choice(1, 2)), Linear(),
                Identity()],
        max_span=2,
        guide_training=Recipe(epochs=4, distill=0, batch_size=64),
        recipe=Recipe(epochs=1, align_steps=4, align_examples=256, batch_size=64),
        keep=["head"],
    )
"""


class Desk:
    """A folder with a space file, from which the command line is run as users run it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "small.py").write_text(SPACE)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "nas_theseus", *arguments]

    def environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        return clean | {"OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(self.folder / "state")}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), cwd=self.folder, env=self.environment(),
            capture_output=True, text=True, timeout=500, check=False,
        )  # fmt: skip

    def search(self, *arguments: str) -> str:
        return self.search_file("small.py", *arguments)

    def search_file(self, file: str, *arguments: str) -> str:
        done = self.run("search", file, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def evaluations(self, name: str) -> dict[str, Evaluation]:
        found = {}
        for outcome in SearchFolder(self.folder / "theseus", name).outcomes():
            assert isinstance(outcome, Evaluation), outcome
            found[outcome.architecture.id] = outcome
        return found

    def front(self, name: str) -> list[tuple[str, dict[str, float]]]:
        members = read_front(SearchFolder(self.folder / "theseus", name))
        return [(m.evaluation.architecture.id, m.evaluation.values()) for m in members]


def summary(desk: Desk, name: str) -> dict[str, float]:
    """The search's own metrics."""
    kept = SearchFolder(desk.folder / "theseus", name).front / "front.json"
    found: dict[str, float] = json.loads(kept.read_text())
    return found


def blocks_of(desk: Desk, name: str) -> set[str]:
    """Blocks that a search converted."""
    return {
        outcome.block for outcome in SearchFolder(desk.folder / "theseus", name).block_outcomes()
    }


def results(evaluations: dict[str, Evaluation]) -> dict[str, tuple[dict[str, float], int]]:
    """What must not depend on how a search was run: everything but the time it took."""
    return {name: (e.values(), e.train_macs_spent) for name, e in evaluations.items()}


def kept_evaluations(storage: SearchFolder) -> list[Evaluation]:
    return [outcome for outcome in storage.outcomes() if isinstance(outcome, Evaluation)]
