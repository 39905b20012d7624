"""Count and measure costs: run a measure on a module and check the result."""

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
from nas_theseus.values.cost_measure import BlockMeasuredCost, CountedCost, SharedCost


@dataclass(frozen=True)
class MeasuredCosts:
    """Costs measured on one network.

    Attributes:
        costs: costs by name.
        beside: further metrics of the measurement, such as the spread of a latency.
    """

    costs: Mapping[str, float]
    beside: Mapping[str, float]


def counted(
    measure: CountedCost, module: nn.Module, inlet: Boundary, earlier: Sequence[nn.Module] = ()
) -> float:
    """An additive cost of one block.

    Args:
        module: given to the measure as it is, which may change it, for example by running it.
        earlier: modules in which shared parts, such as tied parameters, are already counted.

    Raises:
        CostError: the cost cannot be counted, or the count is not a finite number of at least 0.
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
            f"{type(error).__name__}: {error}. Correct its method count, or raise CostError with "
            "the reason if a block cannot be counted"
        ) from error
    if count is None or count < 0:
        raise CostError(
            f"cost {cost} cannot be counted: {type(measure).__name__}.count must return a finite "
            "number of at least 0, such as float(x); it returned "
            f"{'something else' if count is None else count}"
        )
    return count


def measured_on_blocks(
    measure: BlockMeasuredCost,
    blocks: Sequence[nn.Module],
    inlet: Boundary,
    device: torch.device,
    threads: int | None,
) -> float:
    """A cost that is measured on blocks, of one block or of several in a row.

    Args:
        blocks: given to the measure as they are, in evaluation mode on the device.

    Raises:
        CostError: the cost cannot be measured, or is not a finite number of at least 0.
    """
    kinds = ", ".join(dict.fromkeys(type(block).__name__ for block in blocks))
    cost, kind = f"cost {measure.name} of {kinds} on {inlet}", type(measure).__name__
    try:
        value = _number(measure.measure_blocks(blocks, inlet, device, threads))
    except TheseusError:
        raise
    except Exception as error:  # a cost of the user's own may raise anything
        raise CostError(
            f"{cost} cannot be measured: {kind} failed with {type(error).__name__}: {error}. "
            "Correct its method measure_blocks, or raise CostError with the reason if a block or "
            "device is not supported"
        ) from error
    if value is None or value < 0:
        raise CostError(
            f"{cost} cannot be measured: {kind}.measure_blocks must return a finite number of at "
            f"least 0, such as float(x); it returned {'something else' if value is None else value}"
        )
    return value


def whole(name: str) -> str:
    """Name under which a cost that is measured on blocks is recorded for whole networks."""
    return f"{name}_whole"


def measured_costs(
    space: SearchSpace,
    network: nn.Module,
    device: torch.device,
    threads: int | None = None,
    blocks: Sequence[nn.Module] = (),
) -> MeasuredCosts:
    """Measure all measured costs that a space names, each once.

    Args:
        network: takes the task's inputs; it is not changed.
        threads: torch's threads during the measurement. Default: unchanged.
        blocks: the network as a chain, on which costs of blocks are measured as a whole, to compare
            them with sums. Default: they are not.

    Raises:
        CostError: a cost cannot be measured on this device, is not a finite number, or has no
            logarithm though its objective is on a log scale.
    """
    costs: dict[str, float] = {}
    beside: dict[str, float] = {}
    for name in space.measured:
        found = _measured(space, name, network, device, threads)
        costs[name] = found.pop(name)
        beside |= found
    if blocks and space.measured_by_block:
        views = [eval_view(block, device) for block in blocks]
        for name in space.measured_by_block:
            chain = space.measures[name], views, space.task.inlet
            beside[whole(name)] = measured_on_blocks(*chain, device, threads)
    return MeasuredCosts(costs, beside)


def unmeasurable(space: SearchSpace) -> list[str]:
    """Errors when the user's own measured costs are tried on the guide, on the CPU.

    A cost that raises `CostError` is skipped: it may be measurable on the device of the trials.
    """
    said = []
    for name in space.measured:
        if name not in space.own_costs:
            continue
        try:
            _measured(space, name, space.guide, torch.device("cpu"), None)
        except _WrongMeasureError as error:
            said.append(f"guide: {error}")
        except CostError:
            continue
    return said


class _WrongMeasureError(CostError):
    """A measure fails, or returns something other than a cost."""


def _measured(
    space: SearchSpace, name: str, network: nn.Module, device: torch.device, threads: int | None
) -> dict[str, float]:
    """One cost by name, and further metrics of its measurement."""
    measure, inlet = space.measures[name], space.task.inlet
    view = eval_view(network, device)
    kind, cost = type(measure).__name__, f"cost {name} of {type(network).__name__}"
    try:
        found = measure.measure(view, inlet, device, threads)
    except TheseusError:
        raise
    except Exception as error:  # a cost of the user's own may raise anything
        raise _WrongMeasureError(
            f"{cost} cannot be measured: {kind} failed with {type(error).__name__}: {error}. "
            "Correct its method measure, or raise CostError with the reason if it does not support "
            "a device"
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
            f"{cost} is {value[name]}, which has no logarithm; set log=False for its objective: "
            "minimize(…, log=False)"
        )
    return value


def _number(value: object) -> float | None:
    """The value as a plain int or float for JSON; None if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return None
    return int(value) if isinstance(value, Integral) else float(value)
