"""Read JSON that somebody else may have written: bounded, finite, and with one kind of error."""

from __future__ import annotations

import json
import math
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 30
_MOST_DIGITS = 40

# What making values of JSON raises that is not what it should be.
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


def parse_json(text: str | bytes) -> Any:
    """A JSON value; Python's own reader takes more than JSON, and ends deep nesting differently.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or has a number that is not finite.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_bounded)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: Path) -> Any:
    """The JSON value in a file of its own: a link could stand for any file, and a pipe never ends.

    Raises:
        ValueError: it is no file, is larger than 1 GiB, or as `parse_json`.
        OSError: it does not exist or cannot be read.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is a link, a folder or a pipe instead of a file")
    if status.st_size > MOST_BYTES:
        raise ValueError(f"it has {status.st_size:,} bytes, more than {MOST_BYTES:,}")
    return parse_json(path.read_bytes())


def is_own_file(path: Path) -> bool:
    """Whether there is a file at a path, and no link, folder or pipe."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def number(value: object) -> float:
    """A value of JSON that must be a finite number.

    Raises:
        ValueError: it is none.
    """
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError(f"{value!r:.60} is not a finite number")
    return value  # type: ignore[return-value]


def numbers(value: object) -> dict[str, float]:
    """A value of JSON that must be an object of finite numbers by name.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.60} is not an object of numbers")
    return {str(name): number(one) for name, one in value.items()}


def text(value: object) -> str:
    """A value of JSON that must be a text, and can be written as one.

    Raises:
        ValueError: it is none, or has half of a character.
    """
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.60} is not a text")
    value.encode()  # UnicodeEncodeError, which is a ValueError
    return value


def whole(value: object) -> int:
    """A value of JSON that must be a whole number.

    Raises:
        ValueError: it is none.
    """
    if type(value) is not int:
        raise ValueError(f"{value!r:.60} is not a whole number")
    return value


def move_damaged(path: Path) -> None:
    """Rename a damaged file to ``.damaged``, if its folder can be written."""
    with suppress(OSError):
        path.rename(path.with_suffix(".damaged"))


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(digits: str) -> float:
    found = float(digits)
    if not math.isfinite(found):
        raise ValueError(f"{digits[:20]} is too large a number")
    return found


def _bounded(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)
