"""Knowledge distillation: an ablation trained from scratch, distilled from the guide's logits."""

from __future__ import annotations

from nas_theseus.conversion.stage import Schedule, Stage
from nas_theseus.values.recipe import Order


class Distilled(Schedule):
    """Every part starts from random weights; task training distils from the guide's logits."""

    name = "kd"
    is_control = True
    fresh = True

    def stages(self, order: Order, replaced: tuple[int, ...]) -> list[Stage]:
        return []


MEMBER = Distilled()
