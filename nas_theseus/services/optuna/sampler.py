"""Samplers of proposals: how one is made for a seed, and which trials it is shown."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import optuna
from optuna.samplers import BaseSampler

from nas_theseus.errors import ServiceError, TheseusError
from nas_theseus.estimate.thompson import Proposer
from nas_theseus.services.optuna.window import Window
from nas_theseus.values.registers import SAMPLERS

Make: TypeAlias = Callable[[int, "Proposer | None"], BaseSampler]


@dataclass(frozen=True)
class Sampler:
    """One way to make proposals. Members: `values.registers.SAMPLERS`.

    A new sampler is made for every proposal, so it must learn everything from the study. A space
    file may add its own::

        SAMPLERS.add("mine", Sampler(seeded(optuna.samplers.QMCSampler)))
        SAMPLERS.add("mine", optuna.samplers.QMCSampler)  # a class that takes `seed`
        SAMPLERS.add("mine", lambda seed: MySampler(seed))  # a function of the seed

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


def sampler_of(name: str) -> Sampler:
    """The registered sampler of a name; a class or function from a space file is wrapped.

    Raises:
        UnknownNameError: no sampler has the name.
        ServiceError: the member is neither a `Sampler` nor a class or function that makes one.
    """
    member = SAMPLERS[name]
    if isinstance(member, Sampler):
        return member
    if isinstance(member, type) and issubclass(member, BaseSampler):
        return Sampler(seeded(member))
    if callable(member):
        return Sampler(lambda seed, proposer: member(seed))
    raise ServiceError(
        f"sampler {name!r} is {type(member).__name__}, not a way to make samplers: a new one "
        "is made for every proposal, so register a class of Optuna's samplers, or a function that "
        "takes a seed and returns one"
    )


def make_sampler(name: str, sampler: Sampler, seed: int, proposer: Proposer | None) -> BaseSampler:
    """An Optuna sampler for one proposal.

    Raises:
        ServiceError: it cannot be made, or is not a sampler of Optuna's.
    """
    try:
        made = sampler.make(seed, proposer)
    except TheseusError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise ServiceError(
            f"sampler {name!r} cannot be made for seed {seed}: {type(error).__name__}: {error}. "
            "Register a class that takes `seed`, or a function of the seed"
        ) from error
    if not isinstance(made, BaseSampler):
        raise ServiceError(
            f"sampler {name!r} made {type(made).__name__}, not an optuna.samplers.BaseSampler"
        )
    return made
