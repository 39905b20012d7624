"""Objectives: names, and costs of the user's own, which are checked and registered."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from nas_theseus import maximize, minimize
from nas_theseus.errors import SpaceError, UnknownNameError
from nas_theseus.space.objectives import measure_mistakes
from nas_theseus.values.goals import Objective
from nas_theseus.values.registers import COSTS


@dataclass
class Energy:
    name: object = "energy_mj"
    unit: object = "mJ"
    direction: object = "minimize"
    additive: object = True

    def count(self, module: object, inlet: object) -> float:
        return 1.0


class Speed:
    name, unit, direction, additive = "images_a_second", "1/s", "maximize", False

    def measure(self, network: object, inlet: object, device: object, threads: object) -> float:
        return 1.0


def test_costs_are_on_a_log_scale_unless_said_otherwise() -> None:
    assert minimize("macs") == Objective("macs", "minimize", log=True)
    assert minimize("macs", log=False, reference=3.0) == Objective("macs", "minimize", False, 3.0)
    assert minimize("val_perplexity") == Objective("val_perplexity", "minimize")
    assert maximize("val_accuracy", 0.5) == Objective("val_accuracy", "maximize", reference=0.5)
    assert minimize(Energy()) == Objective("energy_mj", "minimize", log=True)
    assert maximize(Speed()) == Objective("images_a_second", "maximize")


def test_a_cost_of_ones_own_is_known_by_its_name() -> None:
    assert "energy_mj" not in COSTS
    energy = Energy()
    minimize(energy)
    assert COSTS["energy_mj"] is energy
    assert minimize("energy_mj").log
    assert COSTS.one_of == f"{', '.join(COSTS.shipped)} or energy_mj"


def test_the_names_of_the_package_are_taken() -> None:
    with pytest.raises(UnknownNameError, match="'params' is part of nas-theseus; choose"):
        minimize(Energy(name="params"))


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (object(), "lacks 'name', 'unit', 'direction', 'additive'; a cost has name, unit"),
        (Energy, "cost Energy: this is the class itself; call it: Energy()"),
        (Energy(name="energy mj"), "'energy mj' (Energy): a name must be an identifier"),
        (Energy(name="énergie"), "a name must be an identifier"),
        (Energy(name=3), "cost 3 (Energy): a name must be an identifier"),
        (Energy(name="seconds"), "use this name for something else"),
        (Energy(name="test_energy"), "use this name for something else"),
        (Energy(unit=None), "unit must be text, such as 'mJ', not None"),
        (Energy(direction="down"), "direction must be 'minimize' or 'maximize', not 'down'"),
        (Energy(additive="yes"), "additive must be True or False, not 'yes'"),
        (Energy(additive=False), "is not additive, so it needs a method measure(network, inlet"),
    ],
)
def test_what_is_wrong_with_a_cost_is_said(measure: object, said: str) -> None:
    (mistake,) = measure_mistakes(measure)
    assert said in mistake
    with pytest.raises(SpaceError):
        minimize(measure)  # type: ignore[arg-type]


def test_all_that_is_wrong_with_a_cost_is_said_together() -> None:
    wrong = Energy(name="a-b", unit=1, direction="less")
    wrong.count = None  # type: ignore[assignment, method-assign]
    with pytest.raises(SpaceError) as caught:
        minimize(wrong)  # type: ignore[arg-type]
    assert len(caught.value.mistakes) == 4
    assert caught.value.where == "minimize(Energy)"
