"""What a sampler of proposals is: how it is made for a seed, and what it is shown."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import optuna
from optuna.samplers import BaseSampler

from nas_theseus.estimate.thompson import Proposer
from nas_theseus.services.optuna.window import Window

Make: TypeAlias = Callable[[int, "Proposer | None"], BaseSampler]


@dataclass(frozen=True)
class Sampler:
    """One way to make proposals. Members: `values.registers.SAMPLERS`.

    A sampler is made anew for every proposal, so it must take all that it knows from the study.

    Attributes:
        make: an Optuna sampler from a seed and the search's `Proposer`, which only `theseus` needs.
        window: makes the view of a long study that the sampler is shown; None for all of it.
    """

    make: Make
    window: Callable[[], Window] | None = None


def seeded(kind: Callable[..., BaseSampler], **options: object) -> Make:
    """Makes samplers of an Optuna class, whose constructor takes ``seed``."""

    def make(seed: int, proposer: Proposer | None) -> BaseSampler:
        del proposer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return kind(seed=seed, **options)

    return make
