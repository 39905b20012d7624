"""Numbers as people read them."""

from __future__ import annotations

import math


def short_count(value: float) -> str:
    """1234567 as 1.23 M."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f}"


def number(value: float | None) -> str:
    """A quality or a cost: large numbers and counts shortened, others with four digits."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return short_count(value)
    if abs(value) >= 10:
        return f"{value:.4g}"
    return f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3g}"


def left_out(count: int) -> str:
    """How many finished networks the floor of chance leaves out of the front, in a sentence."""
    which = "1 network no better than chance is" if count == 1 else ""
    return f"{which or f'{count} networks no better than chance are'} left out of the front"


def duration(seconds: float) -> str:
    """Seconds as 12.3 s, 4.5 min or 6.7 h."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s"


def energy_of(joules: float) -> str:
    """Joules as 12.3 J, 4.5 kJ or, from a tenth of it on, 6.7 kWh."""
    if joules >= 360e3:
        return f"{joules / 3.6e6:.3g} kWh"
    return f"{joules / 1e3:.3g} kJ" if joules >= 1000 else f"{joules:.3g} J"
