"""What a user's own parts lack is refused by `stitch` as by `check`, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas_theseus.api import stitch as stitch_module
from nas_theseus.api.stitch import ComparisonSettings, stitch
from nas_theseus.errors import SpaceError
from nas_theseus.space.load import load_space
from nas_theseus.space.mistakes import mistakes_in

SPACE = """
from dataclasses import dataclass, replace
import torch
from torch import nn
from nas_theseus import Recipe, SearchSpace, cut
from nas_theseus.blocks import Keep
from nas_theseus.tasks import digits

class Wrapped:
    def __init__(self):
        self.inner = digits()
    def __getattr__(self, name):
        return getattr(self.inner, name)
    name, metric, direction = "mine", "accuracy", "maximize"
    CHANGES

def space():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))
    net = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1), head)
    task = Wrapped()
    names = "inlet", "outputs", "data_hash", "size", "batches", "sample", "meter", "distillation"
    for name in names:
        task.__dict__.setdefault(name, getattr(task.inner, name))
    if not hasattr(type(task), "loss"):
        task.loss = task.inner.loss
    return SearchSpace(guide=cut(net, ["0", "1"], (1, 8, 8)), task=task, blocks=[Keep()],
                       guide_training=Recipe(epochs=1, distill=0), recipe=Recipe(distill=0))
"""


def write(folder: Path, name: str, changes: str = "", classes: int = 10) -> str:
    path = folder / f"{name}.py"
    path.write_text(SPACE.replace("CHANGES", changes).replace("CLASSES", str(classes)))
    return str(path)


def refused(folder: Path, *networks: str, task: str = "digits") -> list[str]:
    lines: list[str] = []
    with pytest.raises(SpaceError) as caught:
        stitch(*networks, task=task, settings=ComparisonSettings(storage=folder), say=lines.append)
    assert lines == []  # nothing was trained
    assert not list(folder.glob("guides/*"))
    return list(caught.value.mistakes)


def test_the_same_mistakes_as_check_finds(tmp_path: Path) -> None:
    bad = write(tmp_path, "bad", "def loss(self, outputs, targets): return outputs.sum() * 0")
    (checked,) = mistakes_in(load_space(bad))
    assert "its gradient is 0" in checked
    assert refused(tmp_path, bad, write(tmp_path, "good")) == [f"bad: {checked}"]


def test_mistakes_of_all_networks_are_reported_together(tmp_path: Path) -> None:
    first = write(tmp_path, "a", "def loss(self, outputs, targets): return outputs.sum() * 0")
    second = write(tmp_path, "b", "def loss(self, outputs, targets): return 3.0")
    said = refused(tmp_path, first, second)
    assert [one.partition(":")[0] for one in said] == ["a", "b"]


def test_a_metric_that_mlflow_would_refuse(tmp_path: Path) -> None:
    named = write(tmp_path, "named", 'metric = "acc@5"')
    (said,) = refused(tmp_path, named)
    # A network is compared with its twin of the next seed, whose task is the same.
    assert said.startswith("named: metric 'acc@5': a name can only have letters")


def test_a_guide_whose_head_does_not_fit_the_task(tmp_path: Path) -> None:
    said = refused(tmp_path, write(tmp_path, "five", classes=5), write(tmp_path, "ten"))
    assert said[0].startswith("five: guide: its outputs are (D) = (5), but task 'mine' needs")
    assert said[0].endswith("give the guide a head for the task")


def test_networks_of_other_tasks_are_refused_before_training(tmp_path: Path) -> None:
    ten = write(tmp_path, "ten")
    other = write(tmp_path, "other", 'def data_hash(self): return "other"')
    Path(other).write_text(Path(other).read_text().replace('"data_hash", ', ""))
    (said,) = refused(tmp_path, ten, other)
    assert said.startswith("other is of mine") and "compare networks of one task" in said


def test_stitch_and_spaces_ask_one_contract() -> None:
    from nas_theseus.space import mistakes
    from nas_theseus.tasks import contract

    for module in (mistakes, stitch_module):
        assert module.declared_mistakes is contract.declared_mistakes
        assert module.used_mistakes is contract.used_mistakes
