"""Perplexity: the exponential of the mean cross-entropy per token, in nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from nas_theseus.tasks.metric import Meter, NamedMetric, Targets


class Perplexity:
    """Perplexity from log-probabilities.

    torchmetrics computes the logarithm of the softmax, which is infinite if a single token has a
    probability below 1e-45. This happens in networks that have just been converted.
    """

    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._nats: list[Tensor] = []
        self._tokens = 0

    def update(self, outputs: Tensor, targets: Tensor, /) -> None:
        """Take in logits (B, T, V) and ids (B, T)."""
        summed = functional.cross_entropy(
            outputs.flatten(0, 1).float(), targets.flatten(), reduction="sum"
        )
        self._nats.append(summed)
        self._tokens += targets.numel()

    def compute(self) -> float:
        """The perplexity; infinite if the exponential overflows."""
        mean = sum(torch.stack(self._nats).tolist()) / self._tokens
        return math.exp(mean) if mean < 700 else math.inf


def make(targets: Targets) -> Meter:
    """A meter of perplexity, for any vocabulary."""
    del targets
    return Perplexity()


MEMBER = NamedMetric("minimize", ("tokens",), make)
