"""Our samplers pass Optuna's own tests of samplers; so do Optuna's samplers behind our windows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from optuna.samplers import BaseSampler, GPSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from torch import nn

from nas_theseus import SearchSpace, cut
from nas_theseus.blocks import Identity, Keep, Linear
from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.thompson import Proposer
from nas_theseus.services.optuna.genes import FixedGenome
from nas_theseus.services.optuna.private import RememberingTPESampler
from nas_theseus.services.optuna.sampler import sampler_of
from nas_theseus.services.optuna.theseus_sampler import TheseusSampler
from nas_theseus.services.optuna.window import Thinned
from nas_theseus.tasks import digits

HEAD = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
CONVS = [nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)]
SPACE = SearchSpace(
    guide=cut(nn.Sequential(*CONVS, HEAD), ["0", "1"], (1, 8, 8)),
    task=digits(),
    blocks=[Keep(), Linear(), Identity()],
    keep=["head"],
)
PROPOSER = Proposer(SPACE, CostTable(SPACE))
Make = Callable[[], BaseSampler]


def of_the_study(name: str) -> BaseSampler:
    """A sampler as `Study` uses it, with its window, over a genome without genes."""
    sampler = sampler_of(name)
    window = None if sampler.window is None else sampler.window()
    return FixedGenome(sampler.make(0, PROPOSER), {}, window)


class TestTheseus(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """It proposes its own genome alone, so the tests of other relative parameters do not apply."""

    @pytest.fixture
    def sampler(self) -> Make:
        return partial(TheseusSampler, PROPOSER)


class TestOfTheStudy(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture(params=["theseus", "tpe", "nsga2", "nsga3", "random"])
    def sampler(self, request: pytest.FixtureRequest) -> Make:
        return partial(of_the_study, request.param)


class TestRelativeWithAWindow(RelativeSamplerTestCase):
    """Without the first random proposals, as the tests want parameters from the first on."""

    @pytest.fixture(params=["tpe", pytest.param("gp", marks=pytest.mark.slow)])
    def sampler(self, request: pytest.FixtureRequest) -> Make:
        def make() -> BaseSampler:
            if request.param == "gp":
                return FixedGenome(GPSampler(n_startup_trials=0, seed=0), {}, Thinned(200))
            options = {"n_startup_trials": 0, "multivariate": True, "constant_liar": True}
            return FixedGenome(RememberingTPESampler(seed=0, **options), {}, Thinned(2))

        return make
