"""Take costs: run a measure on a module, and refuse what is no number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import nn

from nas_theseus.costs.probe import eval_view
from nas_theseus.errors import CostError, TheseusError
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.cost_measure import CountedCost, SharedCost
from nas_theseus.values.registers import COSTS


@dataclass(frozen=True)
class MeasuredCosts:
    """What was measured on one network.

    Attributes:
        costs: by name.
        beside: metrics that came with them, such as the spread of a latency.
    """

    costs: Mapping[str, float]
    beside: Mapping[str, float]


def counted(
    measure: CountedCost, module: nn.Module, inlet: Boundary, earlier: Sequence[nn.Module] = ()
) -> float:
    """An additive cost of one block.

    Args:
        module: in evaluation mode; one that the measure may change, as by running it.
        earlier: what shared parts, such as tied parameters, count in already.

    Raises:
        CostError: it cannot be counted, or the count is no finite number of at least 0.
    """
    cost = f"{measure.name} of {type(module).__name__} on {inlet}"
    try:
        count = _number(measure.count(module, inlet))
        if count is not None and earlier and isinstance(measure, SharedCost):
            held = _number(measure.shared(module, earlier))
            count = None if held is None else count - held
    except TheseusError:
        raise
    except Exception as error:  # a cost of the user's own may raise anything
        raise CostError(
            f"cost {cost} cannot be counted: {type(measure).__name__} failed with "
            f"{type(error).__name__}: {error}. Mend its method count, or raise CostError with the "
            "reason where a block cannot be counted"
        ) from error
    if count is None or count < 0:
        raise CostError(
            f"cost {cost} cannot be counted: {type(measure).__name__}.count must return a finite "
            "number of at least 0, such as float(x); it returned "
            f"{'something else' if count is None else count}"
        )
    return count


def measured_costs(
    space: SearchSpace, network: nn.Module, device: torch.device, threads: int | None = None
) -> MeasuredCosts:
    """The measured costs that a space names, each measured once.

    Args:
        network: takes the task's inputs; it stays as it is.
        threads: torch's while measuring; as many as it has now when None.

    Raises:
        CostError: one cannot be measured on this device, is no finite number, or has no logarithm
            where its objective is on a log scale.
    """
    costs: dict[str, float] = {}
    beside: dict[str, float] = {}
    for name in space.measured:
        found = _measured(space, name, network, device, threads)
        costs[name] = found.pop(name)
        beside |= found
    return MeasuredCosts(costs, beside)


def unmeasurable(space: SearchSpace) -> list[str]:
    """What goes wrong where the user's own measured costs are tried on the guide, on the CPU.

    A cost that raises `CostError` is passed over: it may be measured where trials run.
    """
    said = []
    for name in space.measured:
        if name not in COSTS.own:
            continue
        try:
            _measured(space, name, space.guide, torch.device("cpu"), None)
        except _WrongMeasureError as error:
            said.append(f"guide: {error}")
        except CostError:
            continue
    return said


class _WrongMeasureError(CostError):
    """A measure that does not do what a cost must."""


def _measured(
    space: SearchSpace, name: str, network: nn.Module, device: torch.device, threads: int | None
) -> dict[str, float]:
    """One cost by name, and what came with it."""
    measure, inlet = space.measures[name], space.task.inlet
    view = eval_view(network, device)
    kind, cost = type(measure).__name__, f"cost {name} of {type(network).__name__}"
    try:
        found = measure.measure(view, inlet, device, threads)
    except TheseusError:
        raise
    except Exception as error:  # a cost of the user's own may raise anything
        raise _WrongMeasureError(
            f"{cost} cannot be measured: {kind} failed with {type(error).__name__}: {error}. Mend "
            "its method measure, or raise CostError with the reason where a device does not do"
        ) from error
    named = found if isinstance(found, Mapping) else {name: found}
    numbers = {each: _number(value) for each, value in named.items()}
    if name not in numbers or any(number is None for number in numbers.values()):
        raise _WrongMeasureError(
            f"{cost} cannot be measured: {kind}.measure must return a finite number, such as "
            f"float(x), or several by name with {name!r} among them; it returned {found!r:.80}"
        )
    value = {each: number for each, number in numbers.items() if number is not None}
    if value[name] <= 0 and any(goal.name == name and goal.log for goal in space.goals):
        raise _WrongMeasureError(
            f"{cost} is {value[name]}, which has no logarithm; give its objective log=False: "
            "minimize(…, log=False)"
        )
    return value


def _number(value: object) -> float | None:
    """A plain int or float that JSON can hold; None for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return None
    return int(value) if isinstance(value, Integral) else float(value)
