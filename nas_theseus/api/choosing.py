"""Choose among the rows of a front by conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nas_theseus.errors import SpaceError
from nas_theseus.values.conditions import matches

_TEXTS = frozenset({"architecture", "pairing", "blocks", "run_id"})


def matching(rows: Sequence[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """The rows that meet conditions.

    Args:
        rows: as `searches.front_files.front_rows` gives them.
        where: conditions such as ``macs < 2e6 and val_accuracy > 0.9``.

    Raises:
        SpaceError: a condition cannot be read, or names what no row has.
    """
    # What a member does not have (not tested yet) is NaN, which meets no condition.
    names = {name: float("nan") for row in rows for name in row if name not in _TEXTS}
    try:
        return [
            row
            for row in rows
            if matches(names | {k: v for k, v in row.items() if k not in _TEXTS}, where)
        ]
    except ValueError as error:
        raise SpaceError("--where", [str(error)]) from error
