"""Conditions on named values, such as ``macs <= 2e6``."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any

from nas_theseus.values.goals import Constraint

_CONDITION = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(<=|>=|==|<|>)\s*([-+0-9.eE_]+)\s*")


def parse_constraint(text: str) -> Constraint:
    """A hard limit such as ``macs <= 2e6``.

    Raises:
        ValueError: the text is not of the form ``name <= number`` or ``name >= number``.
    """
    match = _CONDITION.fullmatch(text)
    if match is None or match[2] not in ("<=", ">="):
        raise ValueError(
            f"constraint {text!r} must read 'name <= number' or 'name >= number', "
            "such as 'macs <= 2e6'"
        )
    name, symbol, number = match.groups()
    return Constraint(name, "<=" if symbol == "<=" else ">=", _number(number, text))


def matches(values: Mapping[str, Any], expression: str) -> bool:
    """Whether values satisfy ``name OP number`` conditions joined by ``and``.

    Raises:
        ValueError: a condition cannot be parsed, or its name is not among the values.
    """
    compare = {
        "<=": operator.le,
        ">=": operator.ge,
        "<": operator.lt,
        ">": operator.gt,
        "==": operator.eq,
    }
    verdict = True
    for condition in re.split(r"\s+and\s+", expression.strip()):
        match = _CONDITION.fullmatch(condition)
        if match is None:
            raise ValueError(
                f"condition {condition!r} must read 'name OP number' with <=, >=, <, > or ==, "
                "joined by 'and': 'macs < 2e6 and val_accuracy > 0.9'"
            )
        name, symbol, number = match.groups()
        if name not in values:
            raise ValueError(f"unknown name {name!r} in {expression!r}; known: {', '.join(values)}")
        verdict &= compare[symbol](float(values[name]), _number(number, condition))
    return verdict


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{text!r} in {whole!r} is not a number") from error
