"""A sampler that is no part of the package: a space file adds it, and a study proposes with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial

from nas_theseus.costs.table import CostTable
from nas_theseus.errors import ServiceError
from nas_theseus.services.optuna.sampler import Sampler
from nas_theseus.services.optuna.study import Problem, Study, StudySettings, open_study
from nas_theseus.services.optuna.window import Thinned
from nas_theseus.space.genome import Genome
from nas_theseus.space.load import load_space
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.outcomes import Evaluation, Outcome
from nas_theseus.values.registers import SAMPLERS

SPACE = '''
"""A space whose file brings a sampler: it changes one gene of the best architecture so far."""

from random import Random

from optuna.samplers import RandomSampler
from torch import nn

from nas_theseus import SearchSpace, cut
from nas_theseus.blocks import Identity, Keep, Linear
from nas_theseus.tasks import digits
from nas_theseus.values.registers import SAMPLERS


class HillClimber(RandomSampler):
    def __init__(self, seed):
        super().__init__(seed)
        self.random = Random(seed)

    def sample_relative(self, study, trial, search_space):
        done = [t for t in study.get_trials(deepcopy=False) if t.values is not None]
        if len(done) < 3:
            return {}
        genes = dict(max(done, key=lambda t: t.values[0]).params)
        name = self.random.choice(sorted(search_space))
        return genes | {name: self.random.choice(search_space[name].choices)}


SAMPLERS.add("hill-climber", HillClimber)


def conv(inlet, outlet):
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, 1, 1), nn.ReLU())


def space():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    guide = nn.Sequential(conv(1, 4), conv(4, 4), conv(4, 4), head)
    return SearchSpace(
        guide=cut(guide, ["0", "1", "2"], (1, 8, 8)),
        task=digits(),
        blocks=[Keep(), Linear(), Identity()],
        max_span=2,
        keep=["head"],
    )
'''


class Bench:
    """A study of the space with the sampler; results are made up from the architectures' ids."""

    def __init__(self, folder: Path, sampler: str = "hill-climber") -> None:
        folder.mkdir(exist_ok=True)
        (folder / "space.py").write_text(SPACE)
        self.space = load_space(folder / "space.py")
        self.costs = CostTable(self.space)
        self.results: dict[str, Outcome] = {}
        self.settings = StudySettings("one", folder / "study.journal", sampler, 0)

    def study(self) -> Study:
        genome = Genome(self.space)
        return open_study(
            self.settings,
            Problem(genome, self.space.goals, self.space.limits, self.costs.of),
            lambda architecture: self.results.get(architecture.id),
        )

    def run(self, study: Study, count: int) -> list[Architecture]:
        found = []
        for _ in range(count):
            proposal = study.propose()
            assert proposal is not None
            one = proposal.architecture
            values = {"val_accuracy": int(one.id, 16) % 1000 / 1000}
            self.results[one.id] = Evaluation(one, "r", 0, values, self.costs.of(one), 0, 0.0)
            study.report(proposal, self.results[one.id])
            found.append(one)
        return found


def test_it_proposes_learns_and_continues_after_a_kill_as_if_there_was_none(tmp_path: Path) -> None:
    whole, killed = Bench(tmp_path / "whole"), Bench(tmp_path / "killed")
    assert "hill-climber" in SAMPLERS.one_of
    found = whole.run(whole.study(), 15)
    assert len({*found}) == 15
    first = killed.study()
    some = killed.run(first, 6)
    first.propose()  # left open: the driver dies here
    assert some + killed.run(killed.study(), 9) == found


def test_it_may_have_a_window(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    shown: list[int] = []

    class Short(Thinned):
        def of(self, study: Any) -> Any:
            seen = super().of(study)
            trials: Sequence[FrozenTrial] = seen.get_trials(deepcopy=False)
            shown.append(len(trials))
            return seen

    climber = SAMPLERS["hill-climber"]
    SAMPLERS.add("short", Sampler(lambda seed, proposer: climber(seed), lambda: Short(4)))
    bench.settings = StudySettings("one", bench.settings.storage, "short", 0)
    assert len({*bench.run(bench.study(), 12)}) == 12
    assert max(shown[6:]) < 12


def test_one_that_fails_is_named_with_its_error(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    climber = SAMPLERS["hill-climber"]

    class Broken(climber):  # type: ignore[misc, valid-type]
        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            raise ZeroDivisionError("division by zero")

    SAMPLERS.add("broken", Broken)
    bench.settings = StudySettings("one", bench.settings.storage, "broken", 0)
    said = "'broken' cannot make proposal 1: ZeroDivisionError: division by zero"
    with pytest.raises(ServiceError, match=said):
        bench.study().propose()
