"""TheseusSampler: our proposals as a sampler of Optuna's, over the genome of a search space."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from nas_theseus.estimate.thompson import Proposer, Told
from nas_theseus.space.genome import Genome
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.ids import derive_seed

# Marks of trials in user attributes: refused before it ran (why), told a predicted value (the rung
# that stopped it), measured costs that need not be objectives, and quality at rungs.
REASON = "theseus:reason"
ESTIMATED = "theseus:estimated"
COSTS = "theseus:costs"
RUNGS = "theseus:rungs"


class TheseusSampler(BaseSampler):
    """Proposes genes of the architecture that adds most expected hypervolume.

    All that it knows it reads from the study's trials, whose objectives are the space's, in order:
    a sampler made anew with the same seed proposes the same. Trials that break a constraint
    (`Trial.set_constraint`) are not on the front, those refused teach nothing, those marked
    `theseus:estimated` their costs and what `theseus:rungs` holds (quality by rung); none is
    proposed again. A trial that runs is known by its genes, once all are suggested. Parameters
    that are not of the genome are drawn at random.

    ::

        proposer = Proposer(space, CostTable(space))
        study = optuna.create_study(
            directions=[goal.direction for goal in space.goals], sampler=TheseusSampler(proposer)
        )
        trial = study.ask(distributions(Genome(space)))
        architecture = Genome(space).decode(trial.params)
    """

    def __init__(self, proposer: Proposer, seed: int = 0) -> None:
        self._proposer, self._seed = proposer, seed
        self._random = RandomSampler(seed)

    def reseed_rng(self) -> None:
        """Another seed, for workers that share a study."""
        self._seed = derive_seed(self._seed, "reseeded")
        self._random.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole genome."""
        return distributions(self._proposer.genome)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Genes of the next architecture; of any, if all are told."""
        known: dict[Architecture, Told] = {}
        for other in study.get_trials(deepcopy=False):
            one = self._told(other) if other.number != trial.number else None
            # One that was proposed again has the same result, which must not count twice.
            if one is not None and (one.architecture not in known or one.values):
                known[one.architecture] = one
        told = list(known.values())
        architecture = self._proposer.propose(told, derive_seed(self._seed, len(told)))
        if architecture is None:
            return {}
        return self._proposer.genome.encode(architecture)

    def _told(self, trial: FrozenTrial) -> Told | None:
        genome, space = self._proposer.genome, self._proposer.space
        if not trial.params.keys() >= genome.genes.keys():
            return None
        architecture = genome.decode(trial.params)
        marks = trial.user_attrs
        if trial.state != TrialState.COMPLETE or REASON in marks:
            return Told(architecture, running=trial.state == TrialState.RUNNING)
        names = [goal.name for goal in space.goals]
        values = dict(zip(names, trial.values, strict=True)) | marks.get(COSTS, {})
        feasible = all(violation <= 0 for violation in trial.constraints.values())
        return Told(
            architecture, values, feasible,
            predicted=ESTIMATED in marks, rungs=marks.get(RUNGS, {}),
        )  # fmt: skip

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """At random."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def distributions(genome: Genome) -> dict[str, BaseDistribution]:
    """Genes as Optuna's distributions."""
    return {gene: CategoricalDistribution(values) for gene, values in genome.genes.items()}
