"""Ours: the architecture that adds most for its price, by an estimate that learns."""

from __future__ import annotations

from functools import partial

from optuna.samplers import BaseSampler

from nas_theseus.errors import ServiceError
from nas_theseus.estimate.thompson import Proposer
from nas_theseus.services.optuna.sampler import Sampler
from nas_theseus.services.optuna.theseus_sampler import TheseusSampler
from nas_theseus.services.optuna.window import Thinned


def _make(seed: int, proposer: Proposer | None) -> BaseSampler:
    """A sampler from the search's proposer.

    Raises:
        ServiceError: there is no proposer.
    """
    if proposer is None:
        raise ServiceError(
            "sampler 'theseus' needs the search space: give the study a Proposer, or use another "
            "sampler"
        )
    return TheseusSampler(proposer, seed)


# A proposal takes longer with the cube of the trials that it looks at.
MEMBER = Sampler(_make, partial(Thinned, 400))
