"""Joint: all blocks at once, in one stage."""

from __future__ import annotations

from nas_theseus.conversion.stage import Schedule, Stage
from nas_theseus.values.recipe import Order


class Joint(Schedule):
    """Trains and aligns all blocks together, in any order."""

    name = "joint"

    def stages(self, order: Order, replaced: tuple[int, ...]) -> list[Stage]:
        first, last = replaced[0], replaced[-1]
        return [Stage(first, last + 1, replaced, replaced, stitched=last, replaced=replaced)]


MEMBER = Joint()
