"""Divergence from the guide: mean KL divergence of its distributions to the network's, in nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from nas_theseus.tasks.metric import Meter, NamedMetric, Targets

# Logits of one step; more at once would need several times the memory of the outputs.
_AT_ONCE = 1 << 24


class Divergence:
    """Mean over positions of KL(guide ‖ network), from logits with the classes last."""

    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._nats: list[Tensor] = []
        self._positions = 0

    def update(self, outputs: Tensor, targets: Tensor, /) -> None:
        """Take in the network's and the guide's logits, both (…, C)."""
        rows, taught = outputs.flatten(0, -2), targets.flatten(0, -2)
        steps = max(1, math.ceil(rows.numel() / _AT_ONCE))
        for network, guide in zip(
            rows.tensor_split(steps), taught.tensor_split(steps), strict=True
        ):
            found, wanted = (
                functional.log_softmax(logits.float(), dim=-1) for logits in (network, guide)
            )
            self._nats.append(functional.kl_div(found, wanted, reduction="sum", log_target=True))
        self._positions += len(rows)

    def compute(self) -> float:
        """The mean over all positions."""
        nats: float = sum(torch.stack(self._nats).tolist())
        return nats / self._positions


def make(targets: Targets) -> Meter:
    """A meter of the divergence, for any number of classes."""
    del targets
    return Divergence()


MEMBER = NamedMetric("minimize", ("outputs",), make)
