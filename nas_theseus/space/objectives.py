"""Objectives of a search: metrics and costs by name, or the user's own costs."""

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
# Other columns of results and tables, which a cost must not be named after.
_TAKEN = ("architecture", "pairing", "blocks", "choices", "deviation", "seconds", "run_id")
_TAKEN_PREFIXES = ("val_", "test_", "train_", "predicted_", "blocks_")


def maximize(goal: str | CostMeasure, reference: float | None = None) -> Objective:
    """An objective to maximise, such as ``maximize("val_accuracy")``.

    Args:
        goal: name of a metric or cost, or a cost of your own.
        reference: worst value that still counts. Default: derived from the guide.

    Raises:
        SpaceError: a cost of your own is incomplete or wrong; the message lists all mistakes.
        UnknownNameError: a cost of your own has the name of a cost of nas-theseus.
    """
    return Objective(_name_of(goal, "maximize"), "maximize", log=False, reference=reference)


def minimize(
    goal: str | CostMeasure, log: bool | None = None, reference: float | None = None
) -> Objective:
    """An objective to minimise, such as ``minimize("macs")``.

    Args:
        goal: name of a metric or cost, or a cost of your own.
        log: whether to compare values on a log scale. Default: true for costs.
        reference: worst value that still counts. Default: derived from the guide.

    Raises:
        SpaceError: a cost of your own is incomplete or wrong; the message lists all mistakes.
        UnknownNameError: a cost of your own has the name of a cost of nas-theseus.
    """
    name = _name_of(goal, "minimize")
    return Objective(name, "minimize", name in COSTS if log is None else log, reference)


def _name_of(goal: str | CostMeasure, call: Direction) -> str:
    """The name of an objective; registers a cost given as an object."""
    if isinstance(goal, str):
        return goal
    if mistakes := list(measure_mistakes(goal)):
        raise SpaceError(f"{call}({type(goal).__name__})", mistakes)
    COSTS.add(goal.name, goal)
    return goal.name


def measure_mistakes(measure: object) -> Iterator[str]:
    """Mistakes in a user's own cost that can be found without running it."""
    if isinstance(measure, type):
        yield f"cost {measure.__name__}: this is the class itself; call it: {measure.__name__}()"
        return
    kind = type(measure).__name__
    missing = object()
    named = [(n, getattr(measure, n, missing)) for n in ("name", "unit", "direction", "additive")]
    if lacking := [repr(name) for name, value in named if value is missing]:
        yield (
            f"cost {kind}: lacks {', '.join(lacking)}; a cost has name, unit, direction, "
            "additive, and a method count, measure_blocks or measure, as in "
            "nas_theseus/costs/measures"
        )
        return
    name, unit, direction, additive = (value for _, value in named)
    cost = f"cost {name!r} ({kind})"
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        yield (
            f"{cost}: a name must be an identifier of letters, digits and '_', such as "
            "'energy_mj', so that it can be used in constraints and --where"
        )
    elif name in _TAKEN or name.startswith(_TAKEN_PREFIXES):
        yield f"{cost}: results use this name for something else; choose another"
    if not isinstance(unit, str):
        yield f"{cost}: unit must be text, such as 'mJ', not {unit!r}"
    if direction not in get_args(Direction):
        yield f"{cost}: direction must be 'minimize' or 'maximize', not {direction!r}"
    if not isinstance(additive, bool):
        yield f"{cost}: additive must be True or False, not {additive!r}"
        return
    place = ("inlet", "device", "threads")
    methods: dict[str, tuple[str, ...]] = {"measure": ("network", *place)}
    if additive:
        methods = {"count": ("module", "inlet"), "measure_blocks": ("blocks", *place)}
    if not any(_takes(getattr(measure, name, None), len(given)) for name, given in methods.items()):
        how = "additive" if additive else "not additive"
        wanted = " or ".join(f"{name}({', '.join(given)})" for name, given in methods.items())
        yield f"{cost}: is {how}, so it needs a method {wanted}"


def _takes(method: object, count: int) -> bool:
    """Whether a method can be called with `count` arguments."""
    if not callable(method):
        return False
    try:
        inspect.signature(method).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # built-in functions have no signature
        return True
    return True
