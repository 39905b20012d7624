"""Progressive: one block after the other, with all blocks so far staying trainable."""

from __future__ import annotations

from nas_theseus.conversion.stage import Schedule, Stage, one_by_one
from nas_theseus.values.recipe import Order


class Progressive(Schedule):
    """Trains and aligns all blocks so far in every stage.

    That all blocks so far stay trainable is our reading of the source.
    """

    name = "progressive"

    def stages(self, order: Order, replaced: tuple[int, ...]) -> list[Stage]:
        return [
            Stage(done[0], done[-1] + 1, done, done, stitched=done[-1], replaced=done)
            for _, done in one_by_one(order, replaced)
        ]


MEMBER = Progressive()
