"""Agreement with the guide: share of examples, tokens or pixels with the guide's greatest logit."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_theseus.tasks.metric import Meter, NamedMetric, Targets


class Agreement:
    """Share of positions where network and guide have the greatest logit at one class."""

    higher_is_better = True

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._same: list[Tensor] = []
        self._positions = 0

    def update(self, outputs: Tensor, targets: Tensor, /) -> None:
        """Take in the network's and the guide's logits, both (…, C)."""
        same = outputs.argmax(-1) == targets.argmax(-1)
        self._same.append(same.sum())
        self._positions += same.numel()

    def compute(self) -> float:
        """The share of all positions."""
        total: int = sum(torch.stack(self._same).tolist())
        return total / self._positions


def make(targets: Targets) -> Meter:
    """A meter of the agreement, for any number of classes."""
    del targets
    return Agreement()


MEMBER = NamedMetric("maximize", ("outputs",), make)
