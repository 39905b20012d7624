"""Options that several functions share: typed by keyword, with their defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

Options = TypeVar("Options", bound=Mapping[str, Any])


def completed(function: str, given: Mapping[str, Any], defaults: Options) -> Options:
    """Options with their defaults filled in.

    Args:
        function: to which they were given.
        defaults: every option that the function has.

    Raises:
        TypeError: an option that the function does not have, as Python says it.
    """
    for name in given:
        if name not in defaults:
            raise TypeError(
                f"{function}() got an unexpected keyword argument {name!r}; options are "
                f"{', '.join(defaults)}"
            )
    return {**defaults, **given}  # type: ignore[return-value] # a dict of the same keys
