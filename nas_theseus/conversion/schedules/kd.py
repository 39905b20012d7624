"""Knowledge distillation: a control that is trained from scratch, taught by the guide's logits."""

from __future__ import annotations

from nas_theseus.conversion.stage import Schedule, Stage
from nas_theseus.values.recipe import Order


class Distilled(Schedule):
    """Every part begins with random weights; the guide's logits teach in task training."""

    name = "kd"
    is_control = True
    fresh = True

    def stages(self, order: Order, replaced: tuple[int, ...]) -> list[Stage]:
        return []


MEMBER = Distilled()
