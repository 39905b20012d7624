"""Sequential: one block after the other, behind (or in front of) earlier ones that are frozen."""

from __future__ import annotations

from nas_theseus.conversion.stage import Schedule, Stage, one_by_one
from nas_theseus.values.recipe import Order


class Sequential(Schedule):
    """Trains the newest block alone.

    In reverse order the frozen blocks behind the newest one are aligned as well (ours).
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
