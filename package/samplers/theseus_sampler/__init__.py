"""TheseusSampler as a package of OptunaHub; the sampler itself is part of nas-theseus."""

from __future__ import annotations

from nas_theseus import SearchSpace
from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.thompson import Proposer
from nas_theseus.services.optuna import theseus_sampler


class TheseusSampler(theseus_sampler.TheseusSampler):
    """Proposes the architecture of a search space that adds most expected hypervolume for a price.

    Args:
        space: its objectives are those of the study, in the same order.
        seed: of the proposals.

    Attributes:
        genome: names and values of the study's parameters, and the architectures that they mean.
    """

    def __init__(self, space: SearchSpace, seed: int = 0) -> None:
        proposer = Proposer(space, CostTable(space))
        super().__init__(proposer, seed)
        self.genome = proposer.genome


__all__ = ["TheseusSampler"]
