"""Perplexity: the exponential of the mean cross-entropy per token, in nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from nas_theseus.tasks.metric import Meter, NamedMetric, Targets

# Logits of one step; more at once would need several times the memory of the outputs.
_AT_ONCE = 1 << 24


def summed_nats(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits (B, T, V) against ids (B, T), summed over tokens, a scalar."""
    rows, ids = outputs.flatten(0, 1), targets.flatten()
    steps = max(1, math.ceil(rows.numel() / _AT_ONCE))
    summed = [
        functional.cross_entropy(logits.float(), wanted, reduction="sum")
        for logits, wanted in zip(rows.tensor_split(steps), ids.tensor_split(steps), strict=True)
    ]
    return torch.stack(summed).sum()


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
        self._nats.append(summed_nats(outputs, targets))
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
