"""Scratch: a control that takes nothing from the guide."""

from __future__ import annotations

from nas_theseus.conversion.stage import Schedule, Stage
from nas_theseus.values.recipe import Order


class Scratch(Schedule):
    """Every part begins with random weights, and the guide does not teach."""

    name = "scratch"
    is_control = True
    fresh = True
    taught = False

    def stages(self, order: Order, replaced: tuple[int, ...]) -> list[Stage]:
        return []


MEMBER = Scratch()
