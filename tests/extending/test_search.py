"""A whole search whose block, similarity, sampler and tracker are no part of the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import nas_theseus
from nas_theseus.errors import SpaceError

PARTS = '''
"""Parts of a search that a user wrote."""

import json

import optuna
import torch
from torch import nn

from nas_theseus.blocks import downsampling
from nas_theseus.services.optuna.sampler import Sampler
from nas_theseus.values.registers import SAMPLERS, TRACKERS


class Gated(nn.Module):
    """A block: two convolutions, one of which opens and closes the other."""

    def __init__(self, inlet, outlet, hidden=8):
        super().__init__()
        stride = downsampling(inlet, outlet)
        self.value = nn.Conv2d(inlet.width, hidden, 3, stride, 1)
        self.gate = nn.Conv2d(inlet.width, hidden, 3, stride, 1)
        self.last = nn.Conv2d(hidden, outlet.width, 1)

    def forward(self, inputs):
        return self.last(self.value(inputs) * self.gate(inputs).sigmoid())


class Absolute:
    """A similarity: one minus the mean absolute error, as a share of the guide's mean size."""

    name = "absolute"
    aligned_basis = True
    minimum_examples = 1

    def prepare(self, guide):
        return guide

    def loss(self, features, prepared):
        return (features - prepared).abs().mean() / prepared.abs().mean().clamp_min(1e-6)


class Lines:
    """A tracker: one JSON object an outcome."""

    def __init__(self, context):
        self.path = context.folder / "mine.jsonl"

    def begin(self, parameters):
        self.path.touch()

    def has(self, outcome):
        return outcome.name in self.path.read_text()

    def outcome(self, outcome):
        with self.path.open("a") as file:
            file.write(json.dumps({"name": outcome.name}) + "\\n")

    def front(self, front):
        pass

    def results(self, results):
        pass

    def end(self, status):
        return 0


SAMPLERS.add("mine", Sampler(lambda seed, proposer: optuna.samplers.QMCSampler(seed=seed)))
TRACKERS.add("mine", Lines)
'''


@pytest.fixture
def space_file(tmp_path: Path, toy_space_text: str) -> Path:
    """The toy space, whose parts of its own are in a module beside it."""
    (tmp_path / "parts.py").write_text(PARTS)
    text = (
        toy_space_text.replace(
            "from nas_theseus.tasks import digits",
            "from nas_theseus import block\nfrom nas_theseus.tasks import digits\n"
            "from parts import Absolute, Gated",
        )
        .replace("Linear()]", "Linear(), block(Gated, hidden=choice(4, 8))]")
        .replace("align_steps=5", "align_steps=5, similarity=Absolute()")
    )
    (tmp_path / "space.py").write_text(text)
    return tmp_path / "space.py"


def test_a_search_with_parts_of_ones_own(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"executor": "inline", "sampler": "mine", "trackers": ["mine", "json-lines"]}
    result = nas_theseus.search(space_file, trials=8, seed=3, **options)
    assert result.status.progress.done == 8 and result.status.progress.failed == 0
    assert result.frame()["macs"].is_monotonic_increasing and len(result.front) > 1
    evaluations = list((result.folder / "evaluations").glob("*.json"))
    tracked = (result.folder / "mine.jsonl").read_text().splitlines()
    assert {json.loads(line)["name"] for line in tracked} == {file.stem for file in evaluations}
    blocks = [json.loads(file.read_text())["name"] for file in (result.folder / "blocks").iterdir()]
    assert any(name.startswith("gated") for name in blocks)
    for row in result.front:
        assert result.load(row["architecture"])(torch.zeros(2, 1, 8, 8)).shape == (2, 10)

    # Its own sampler and similarity are part of what the search began with.
    more = nas_theseus.search(space_file, trials=9, executor="inline", trackers=["mine"])
    assert more.status.progress.done == 9
    edited = PARTS.replace(".abs().mean() / prepared", ".square().mean() / prepared")
    (tmp_path / "parts.py").write_text(edited)
    with pytest.raises(SpaceError, match=r"parts\.py"):
        nas_theseus.search(space_file, trials=10, executor="inline", trackers=["mine"])


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"sampler": "yours"}, "unknown sampler 'yours'; use .*tpe.* or mine"),
        ({"executor": "slurm"}, "unknown executor 'slurm'; use inline or ray"),
        ({"trackers": ["paper"]}, "unknown tracker 'paper'; use .*mlflow.* or mine"),
    ],
)
def test_a_name_that_no_register_has_is_refused_with_those_that_there_are(
    option: dict[str, object],
    said: str,
    space_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpaceError, match=said):
        nas_theseus.search(space_file, trials=1, **option)
    assert not (tmp_path / "theseus").exists()
