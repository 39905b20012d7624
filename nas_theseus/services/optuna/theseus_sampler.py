"""TheseusSampler: our proposals as a sampler of Optuna's, over the genome of a search space."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from nas_theseus.estimate.thompson import PastProposal, Proposer
from nas_theseus.services.optuna.genes import distributions
from nas_theseus.services.optuna.marks import COSTS, ESTIMATED, REASON, RUNGS
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.ids import derive_seed


class TheseusSampler(BaseSampler):
    """Proposes genes of the architecture that adds most expected hypervolume for its price.

    Nothing that it keeps between proposals changes them: it reads the study's trials, whose
    objectives are those of the space, in order. A new sampler with the same seed proposes the
    same. No architecture is proposed twice. How trials count, by their marks
    (`services.optuna.marks`):

    - a trial that breaks a constraint (`Trial.set_constraint`) is not on the front;
    - nothing is learnt from a refused or failed trial;
    - from a trial with a predicted quality, its costs and its quality at rungs are learnt;
    - a running trial counts once all its genes are suggested.

    Parameters that are not in the genome are drawn at random.

    Args:
        proposer: chooses architectures of one search space.
        seed: of the proposals.

    Example::

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
        """Take another seed, for workers that share a study."""
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
        """Genes of the next architecture; empty if all are known, so that they become random."""
        known: dict[Architecture, PastProposal] = {}
        for other in study.get_trials(deepcopy=False):
            one = self._past(study, other) if other.number != trial.number else None
            # An architecture that was proposed again has the same result, which must count once.
            if one is not None and (one.architecture not in known or one.values):
                known[one.architecture] = one
        past = list(known.values())
        architecture = self._proposer.propose(past, derive_seed(self._seed, len(past)))
        if architecture is None:
            return {}
        genes = self._proposer.genome.encode(architecture)
        return {name: value for name, value in genes.items() if name in search_space}

    def _past(self, study: optuna.Study, trial: FrozenTrial) -> PastProposal | None:
        if not trial.state.is_finished():
            return self._read(trial)
        # A finished trial never changes. Studies make a sampler anew for each proposal.
        finished, key = self._proposer.finished, (study.study_name, trial.number)
        if key not in finished:
            finished[key] = self._read(trial)
        return finished[key]

    def _read(self, trial: FrozenTrial) -> PastProposal | None:
        genome, space = self._proposer.genome, self._proposer.space
        if not trial.params.keys() >= genome.genes.keys():
            return None
        architecture = genome.decode(trial.params)
        marks = trial.user_attrs
        if trial.state != TrialState.COMPLETE or REASON in marks:
            return PastProposal(architecture, running=trial.state == TrialState.RUNNING)
        names = [goal.name for goal in space.goals]
        values = dict(zip(names, trial.values, strict=True)) | marks.get(COSTS, {})
        feasible = all(violation <= 0 for violation in trial.constraints.values())
        return PastProposal(
            architecture,
            values,
            feasible,
            predicted=ESTIMATED in marks,
            rungs=marks.get(RUNGS, {}),
        )

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """At random."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)
