"""Scratch: an ablation that uses nothing of the guide."""

from __future__ import annotations

from nas_theseus.conversion.stage import Schedule, Stage
from nas_theseus.values.recipe import Order


class Scratch(Schedule):
    """Every part starts from random weights, without distillation from the guide."""

    name = "scratch"
    is_control = True
    fresh = True
    taught = False

    def stages(self, order: Order, replaced: tuple[int, ...]) -> list[Stage]:
        return []


MEMBER = Scratch()
