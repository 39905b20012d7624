"""What a search maximizes and minimizes, by name or by a cost of the user's own."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import get_args

from nas_theseus.errors import SpaceError
from nas_theseus.values.cost_measure import CostMeasure
from nas_theseus.values.goals import Direction, Objective
from nas_theseus.values.registers import COSTS

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What results and tables hold beside costs.
_TAKEN = ("architecture", "pairing", "blocks", "choices", "deviation", "seconds", "run_id")
_TAKEN_PREFIXES = ("val_", "test_", "train_", "predicted_", "blocks_")


def maximize(goal: str | CostMeasure, reference: float | None = None) -> Objective:
    """An objective that grows, such as ``maximize("val_accuracy")``.

    Args:
        goal: a metric's or cost's name, or a cost of your own.
        reference: the worst value that still counts; from the guide when None.

    Raises:
        SpaceError: a cost of your own lacks something; all that is wrong with it.
        UnknownNameError: its name is that of a cost of nas-theseus.
    """
    return Objective(_name_of(goal, "maximize"), "maximize", log=False, reference=reference)


def minimize(
    goal: str | CostMeasure, log: bool | None = None, reference: float | None = None
) -> Objective:
    """An objective that shrinks, such as ``minimize("macs")``.

    Args:
        goal: a metric's or cost's name, or a cost of your own.
        log: whether it is compared on a log scale; costs are by default.
        reference: the worst value that still counts; from the guide when None.

    Raises:
        SpaceError: a cost of your own lacks something; all that is wrong with it.
        UnknownNameError: its name is that of a cost of nas-theseus.
    """
    name = _name_of(goal, "minimize")
    return Objective(name, "minimize", name in COSTS if log is None else log, reference)


def _name_of(goal: str | CostMeasure, call: Direction) -> str:
    """The name of an objective; a cost that is given as an object is registered under its name."""
    if isinstance(goal, str):
        return goal
    if mistakes := list(measure_mistakes(goal)):
        raise SpaceError(f"{call}({type(goal).__name__})", mistakes)
    COSTS.add(goal.name, goal)
    return goal.name


def measure_mistakes(measure: object) -> Iterator[str]:
    """What is wrong with a cost of the user's own, as far as can be seen without using it."""
    if isinstance(measure, type):
        yield f"cost {measure.__name__}: this is the class itself; call it: {measure.__name__}()"
        return
    kind = type(measure).__name__
    missing = object()
    named = [(n, getattr(measure, n, missing)) for n in ("name", "unit", "direction", "additive")]
    if lacking := [repr(name) for name, value in named if value is missing]:
        yield (
            f"cost {kind}: lacks {', '.join(lacking)}; a cost has name, unit, direction, "
            "additive, and a method count or measure, as in nas_theseus/costs/measures"
        )
        return
    name, unit, direction, additive = (value for _, value in named)
    cost = f"cost {name!r} ({kind})"
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        yield (
            f"{cost}: a name is an identifier, of letters, digits and '_', such as 'energy_mj', "
            "so that constraints and --where can take it"
        )
    elif name in _TAKEN or name.startswith(_TAKEN_PREFIXES):
        yield f"{cost}: results hold something else under this name; choose another"
    if not isinstance(unit, str):
        yield f"{cost}: unit must be text, such as 'mJ', not {unit!r}"
    if direction not in get_args(Direction):
        yield f"{cost}: direction must be 'minimize' or 'maximize', not {direction!r}"
    if not isinstance(additive, bool):
        yield f"{cost}: additive must be True or False, not {additive!r}"
        return
    method, arguments = (
        ("count", ("module", "inlet"))
        if additive
        else ("measure", ("network", "inlet", "device", "threads"))
    )
    if not _takes(getattr(measure, method, None), len(arguments)):
        how = "additive" if additive else "not additive"
        yield f"{cost}: is {how}, so it needs a method {method}({', '.join(arguments)})"


def _takes(method: object, count: int) -> bool:
    """Whether something can be called with so many arguments."""
    if not callable(method):
        return False
    try:
        inspect.signature(method).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # built-in functions have no signature
        return True
    return True
