"""The genome of a search space as Optuna's parameters, and samplers that know it beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from nas_theseus.services.optuna.window import Window
from nas_theseus.space.genome import Genome


def distributions(genome: Genome) -> dict[str, BaseDistribution]:
    """Genes as Optuna's distributions, by name."""
    return {gene: CategoricalDistribution(values) for gene, values in genome.genes.items()}


class FixedGenome(BaseSampler):
    """A sampler that is given the genome of all trials, instead of searching for it.

    Optuna's samplers compare all genes of all trials to find those that every trial has. As this
    package makes a new sampler for every proposal, that took 0.9 s per proposal at 2,000 trials.

    Args:
        sampler: makes the proposals.
        genome: parameters by name.
        window: the part of a long study that the sampler is shown; None for all of it.
    """

    def __init__(
        self,
        sampler: BaseSampler,
        genome: dict[str, BaseDistribution],
        window: Window | None = None,
    ) -> None:
        self._sampler, self._window = sampler, window
        # A gene with one value leaves nothing to choose; Optuna leaves it out as well.
        self._genome = {name: gene for name, gene in genome.items() if not gene.single()}

    def reseed_rng(self) -> None:
        """As the sampler does."""
        self._sampler.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole genome."""
        return self._genome

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler does, from the trials that it is shown."""
        seen = study if self._window is None else self._window.of(study)
        return self._sampler.sample_relative(seen, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As the sampler does."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """As the sampler does."""
        self._sampler.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """As the sampler does; here some save constraints."""
        self._sampler.after_trial(study, trial, state, values)
