"""Costs are taken without changing a module, and only finite numbers are taken."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from nas_theseus import SearchSpace, cut, maximize, minimize
from nas_theseus.blocks import Keep, Linear
from nas_theseus.costs.table import CostTable
from nas_theseus.costs.taking import counted, measured_costs, unmeasurable
from nas_theseus.errors import CostError
from nas_theseus.tasks import digits
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction, Objective

CPU = torch.device("cpu")
INLET = Boundary((1, 8, 8))


class Counted:
    name, unit, additive = "energy_mj", "mJ", True
    direction: Direction = "minimize"

    def __init__(self, found: Callable[[nn.Module], object]) -> None:
        self.found = found

    def count(self, module: nn.Module, inlet: Boundary) -> float:
        return self.found(module)  # type: ignore[return-value]


class Taken:
    name, unit, additive = "power_w", "W", False
    direction: Direction = "minimize"

    def __init__(self, found: Callable[[nn.Module], object]) -> None:
        self.found, self.calls = found, 0

    def measure(
        self, network: nn.Module, inlet: Boundary, device: torch.device, threads: int | None
    ) -> float:
        self.calls += 1
        return self.found(network)  # type: ignore[return-value]


def make_space(*goals: Objective) -> SearchSpace:
    def conv(inlet: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inlet, 4, 3, 1, 1), nn.BatchNorm2d(4))

    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    return SearchSpace(
        guide=cut(nn.Sequential(conv(1), conv(4), head), ["0", "1"], (1, 8, 8)),
        task=digits(),
        blocks=[Keep(), Linear()],
        keep=["head"],
        objectives=[maximize("val_accuracy"), *goals],
    )


def fails(_module: nn.Module) -> object:
    raise KeyError("battery")


def runs(module: nn.Module) -> object:
    """A measure that runs what it is given, and is careless about it."""
    assert not module.training
    module.train()
    first = next(module.modules())
    first.register_forward_hook(lambda *_: None)
    with torch.no_grad():
        for _ in range(3):
            outputs = module(torch.rand(2, 1, 8, 8))
    return float(outputs.numel())


@pytest.mark.parametrize(
    ("value", "kind"), [(3, int), (np.int64(3), int), (0.5, float), (np.float32(0.5), float)]
)
def test_numbers_become_plain_ones(value: float, kind: type) -> None:
    found = counted(Counted(lambda _: value), nn.Linear(4, 3), INLET)
    assert type(found) is kind and found == value
    measured = measured_costs(
        make_space(minimize(Taken(lambda _: value))), nn.Identity(), CPU
    ).costs["power_w"]
    assert type(measured) is kind and measured == value


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "3", True, torch.tensor(3.0), -1])
def test_what_is_no_number_of_at_least_0_is_refused(value: object) -> None:
    with pytest.raises(CostError, match=r"energy_mj of Linear .* Counted.count must return"):
        counted(Counted(lambda _: value), nn.Linear(4, 3), INLET)
    space = make_space(minimize(Taken(lambda _: value)))
    with pytest.raises(CostError, match=r"power_w of Identity (cannot be measured|is -1, which)"):
        measured_costs(space, nn.Identity(), CPU)
    assert len(unmeasurable(space)) == 1


def test_an_error_of_the_users_measure_is_named() -> None:
    with pytest.raises(CostError, match="energy_mj of Linear .*Counted failed with KeyError") as c:
        counted(Counted(fails), nn.Linear(4, 3), INLET)
    assert isinstance(c.value.__cause__, KeyError)
    with pytest.raises(CostError, match="power_w of Identity .*Taken failed with KeyError"):
        measured_costs(make_space(minimize(Taken(fails))), nn.Identity(), CPU)


def test_a_measure_that_tells_why_it_cannot_is_not_reworded() -> None:
    def refuses(_module: nn.Module) -> object:
        raise CostError("power is measured on a GPU only")

    space = make_space(minimize(Taken(refuses)))
    with pytest.raises(CostError, match="^power is measured on a GPU only$"):
        measured_costs(space, nn.Identity(), CPU)
    assert unmeasurable(space) == []


def test_several_numbers_are_the_cost_and_what_is_beside_it() -> None:
    space = make_space(minimize(Taken(lambda _: {"power_w": 2, "power_w_p90": 3.5})))
    found = measured_costs(space, nn.Identity(), CPU)
    assert (found.costs, found.beside) == ({"power_w": 2}, {"power_w_p90": 3.5})
    for value in ({"watts": 2}, {"power_w": 2, "beside": math.nan}, {"power_w": None}):
        wrong = make_space(minimize(Taken(lambda _, value=value: value)))
        with pytest.raises(CostError, match="several by name with 'power_w' among them"):
            measured_costs(wrong, nn.Identity(), CPU)


def test_only_what_has_a_logarithm_is_taken_for_a_log_scale() -> None:
    measure = Taken(lambda _: 0)
    with pytest.raises(CostError, match="no logarithm; set log=False for its objective"):
        measured_costs(make_space(minimize(measure)), nn.Identity(), CPU)
    found = measured_costs(make_space(minimize(measure, log=False)), nn.Identity(), CPU)
    assert found.costs == {"power_w": 0}


def test_each_is_measured_once_and_only_where_it_is_named() -> None:
    measure = Taken(lambda _: 1.0)
    space = make_space(minimize(measure))
    assert space.measured == ("power_w",)
    measured_costs(space, nn.Identity(), CPU)
    assert measure.calls == 1
    assert make_space().measured == () and make_space().additive == ("macs", "params")


def test_a_measure_changes_nothing_of_what_it_runs() -> None:
    space = make_space(minimize(Taken(runs)))
    network = space.guide.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert measured_costs(space, network, CPU).costs == {"power_w": 20.0}
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert network.training and not any(m._forward_hooks for m in network.modules())


class CountedByRunning(Counted):
    def count(self, module: nn.Module, inlet: Boundary) -> float:
        assert not module.training
        module.train()(torch.rand(2, *inlet.shape))
        return 1


def test_counting_changes_nothing_of_a_kept_part() -> None:
    space = make_space(minimize(CountedByRunning(fails)))
    network = space.guide.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert CostTable(space).of_parts()["energy_mj"] == 3
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert network.training
