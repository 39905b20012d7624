"""TheseusSampler as a user of Optuna has it: ask, tell, and what trials of each kind teach."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState
from torch import nn

from nas_theseus import SearchSpace, choice, cut
from nas_theseus.blocks import Depthwise, Identity, Keep, Linear
from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.thompson import Proposer
from nas_theseus.services.optuna.genes import distributions
from nas_theseus.services.optuna.marks import ESTIMATED, REASON
from nas_theseus.services.optuna.theseus_sampler import TheseusSampler
from nas_theseus.tasks import digits
from nas_theseus.values.architecture import Architecture

HEAD = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
CONVS = [nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)]
SPACE = SearchSpace(
    guide=cut(nn.Sequential(*CONVS, HEAD), ["0", "1", "2"], (1, 8, 8)),
    task=digits(),
    blocks=[Keep(), Depthwise(expand=choice(1, 2)), Linear(), Identity()],
    max_span=2,
    keep=["head"],
)
PROPOSER = Proposer(SPACE, CostTable(SPACE))
GENES = distributions(PROPOSER.genome)


def new_study(seed: int = 0) -> optuna.Study:
    return optuna.create_study(
        directions=[goal.direction for goal in SPACE.goals], sampler=TheseusSampler(PROPOSER, seed)
    )


def ask(study: optuna.Study) -> tuple[optuna.Trial, Architecture]:
    trial = study.ask(GENES)
    return trial, PROPOSER.genome.decode(trial.params)


def values(architecture: Architecture) -> list[float]:
    quality = int(architecture.id, 16) % 1000 / 1000
    return [quality, float(CostTable(SPACE).of(architecture).macs)]


def test_suggesting_gene_by_gene_gives_what_was_proposed() -> None:
    asked, suggested = new_study(), new_study()

    def objective(trial: optuna.Trial) -> list[float]:
        genes = {
            name: trial.suggest_categorical(name, options)
            for name, options in PROPOSER.genome.genes.items()
        }
        assert 0 <= trial.suggest_float("another", 0, 1) <= 1
        return values(PROPOSER.genome.decode(genes))

    suggested.optimize(objective, n_trials=12)
    for _ in range(12):
        trial, architecture = ask(asked)
        assert trial.params == PROPOSER.genome.encode(architecture)
        asked.tell(trial, values(architecture))
    genes = [{name: t.params[name] for name in GENES} for t in suggested.trials]
    assert genes == [t.params for t in asked.trials]
    assert len({PROPOSER.genome.decode(g).id for g in genes}) == 12


def test_another_seed_proposes_others() -> None:
    assert [ask(new_study(seed))[1] for seed in (0, 0)] == [ask(new_study())[1]] * 2
    assert len({ask(new_study(seed))[1] for seed in range(8)}) > 1


@pytest.mark.parametrize("kind", ["refused", "estimated", "failed"])
def test_what_was_not_measured_is_known_but_teaches_nothing(kind: str) -> None:
    """With other values told for it, the next proposal is the same."""
    following = []
    for value in (-1e12, 0.99):
        study = new_study()
        for number in range(12):
            trial, architecture = ask(study)
            if number == 10 and kind == "failed":
                study.tell(trial, state=TrialState.FAIL)
            elif number == 10:
                trial.set_user_attr({"refused": REASON, "estimated": ESTIMATED}[kind], "x")
                study.tell(trial, [value, 1.0])
            elif number == 11:
                following.append(architecture)
            else:
                study.tell(trial, values(architecture))
        assert following[-1] not in [PROPOSER.genome.decode(t.params) for t in study.trials[:11]]
    assert following[0] == following[1]


def test_a_gene_that_another_sampler_fixes_stays_fixed() -> None:
    name, options = next(iter(PROPOSER.genome.genes.items()))
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        fixed = optuna.samplers.PartialFixedSampler({name: options[-1]}, TheseusSampler(PROPOSER))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=fixed)
    for _ in range(12):
        trial, architecture = ask(study)
        assert trial.params[name] == options[-1]
        study.tell(trial, values(architecture))
