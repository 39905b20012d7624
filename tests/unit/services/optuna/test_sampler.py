"""Samplers by name, and what a space file may register as one."""

from __future__ import annotations

from collections.abc import Iterator

import optuna
import pytest
from optuna.samplers import BaseSampler

from nas_theseus.errors import ServiceError, UnknownNameError
from nas_theseus.services.optuna.sampler import Sampler, make_sampler, sampler_of
from nas_theseus.values.registers import SAMPLERS, Register


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Samplers that a test registers are gone after it."""
    fresh = Register(SAMPLERS.kind, SAMPLERS.folder)
    monkeypatch.setattr("nas_theseus.services.optuna.sampler.SAMPLERS", fresh)
    monkeypatch.setitem(globals(), "SAMPLERS", fresh)
    yield


def made(name: str) -> BaseSampler:
    return make_sampler(name, sampler_of(name), 7, None)


@pytest.mark.parametrize("name", ["tpe", "gp", "nsga2", "nsga3", "random"])
def test_samplers_that_need_no_proposer_are_made_for_a_seed(name: str) -> None:
    assert isinstance(made(name), BaseSampler)


def test_theseus_says_what_it_needs() -> None:
    with pytest.raises(ServiceError, match="give the study a Proposer"):
        made("theseus")


def test_a_class_of_optuna_s_and_a_function_of_the_seed_are_samplers() -> None:
    seeds = []

    def mine(seed: int) -> BaseSampler:
        seeds.append(seed)
        return optuna.samplers.RandomSampler(seed)

    SAMPLERS.add("class", optuna.samplers.TPESampler)
    SAMPLERS.add("function", mine)
    SAMPLERS.add("whole", Sampler(lambda seed, proposer: mine(seed)))
    assert isinstance(made("class"), optuna.samplers.TPESampler)
    assert isinstance(made("function"), optuna.samplers.RandomSampler)
    assert isinstance(made("whole"), optuna.samplers.RandomSampler)
    assert seeds == [7, 7]


def test_an_instance_is_refused_as_it_could_not_be_made_anew() -> None:
    SAMPLERS.add("mine", optuna.samplers.RandomSampler(0))
    with pytest.raises(ServiceError, match="'mine' is RandomSampler.*is made for every proposal"):
        sampler_of("mine")


def test_a_class_without_a_seed_is_refused() -> None:
    class Seedless(optuna.samplers.RandomSampler):
        def __init__(self) -> None:
            super().__init__()

    SAMPLERS.add("mine", Seedless)
    with pytest.raises(ServiceError, match="'mine' cannot be made for seed 7: TypeError.*`seed`"):
        made("mine")


def test_a_function_that_makes_something_else_is_refused() -> None:
    SAMPLERS.add("mine", lambda seed: "tpe")
    with pytest.raises(ServiceError, match="'mine' made str, not an optuna.samplers"):
        made("mine")


def test_a_name_of_the_package_cannot_be_taken() -> None:
    with pytest.raises(UnknownNameError, match="part of nas-theseus"):
        SAMPLERS.add("tpe", optuna.samplers.RandomSampler)
