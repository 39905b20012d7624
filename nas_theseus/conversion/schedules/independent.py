"""Independent: each block on its own, between the guide's activations."""

from __future__ import annotations

from nas_theseus.conversion.stage import Schedule, Stage, one_by_one
from nas_theseus.values.recipe import Order


class Independent(Schedule):
    """Trains each block on its own, as for blocks in the library."""

    name = "independent"

    def stages(self, order: Order, replaced: tuple[int, ...]) -> list[Stage]:
        return [
            Stage(newest, newest + 1, (newest,), (newest,), stitched=newest, replaced=done)
            for newest, done in one_by_one(order, replaced)
        ]


MEMBER = Independent()
