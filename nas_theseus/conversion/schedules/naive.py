"""Naive: an ablation in which blocks replace the guide's parts without alignment."""

from __future__ import annotations

from nas_theseus.conversion.stage import Schedule, Stage, one_by_one
from nas_theseus.values.recipe import Order


class Naive(Schedule):
    """Inserts one block after the other and aligns nothing."""

    name = "naive"
    is_control = True

    def stages(self, order: Order, replaced: tuple[int, ...]) -> list[Stage]:
        return [
            Stage(newest, newest + 1, trained=(), aligned=(), stitched=None, replaced=done)
            for newest, done in one_by_one(order, replaced)
        ]


MEMBER = Naive()
