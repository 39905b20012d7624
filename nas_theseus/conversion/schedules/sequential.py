"""Sequential: one block after the other, while earlier ones are frozen."""

from __future__ import annotations

from nas_theseus.conversion.stage import Schedule, Stage, one_by_one
from nas_theseus.values.recipe import Order


class Sequential(Schedule):
    """Trains only the newest block.

    In reverse order the frozen blocks after the newest one are aligned as well (ours).
    """

    name = "sequential"

    def stages(self, order: Order, replaced: tuple[int, ...]) -> list[Stage]:
        return [
            Stage(
                done[0],
                done[-1] + 1,
                trained=(newest,),
                aligned=(newest,) if order == "forward" else done,
                stitched=newest,
                replaced=done,
            )
            for newest, done in one_by_one(order, replaced)
        ]


MEMBER = Sequential()
