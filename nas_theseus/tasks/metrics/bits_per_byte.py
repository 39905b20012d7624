"""Bits per byte of text: comparable between tokenizers, unlike perplexity."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nas_theseus.errors import DataError
from nas_theseus.tasks.metric import Meter, NamedMetric, Targets
from nas_theseus.tasks.metrics.perplexity import summed_nats


class BitsPerByte:
    """Cross-entropy in bits over the bytes of text that the targets stand for.

    Args:
        token_bytes: bytes of each token, (V,), int64.
    """

    higher_is_better = False

    def __init__(self, token_bytes: Tensor) -> None:
        self._token_bytes = token_bytes
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._nats: list[Tensor] = []
        self._bytes: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor, /) -> None:
        """Take in logits (B, T, V) and ids (B, T)."""
        self._token_bytes = self._token_bytes.to(targets.device)
        self._nats.append(summed_nats(outputs, targets))
        self._bytes.append(self._token_bytes[targets].sum())

    def compute(self) -> float:
        """The bits per byte; infinite if the targets stand for no text."""
        count = sum(torch.stack(self._bytes).tolist())
        nats: float = sum(torch.stack(self._nats).tolist())
        return nats / math.log(2) / count if count else math.inf


def make(targets: Targets) -> Meter:
    """A meter of bits per byte.

    Raises:
        DataError: the bytes of the tokens are unknown.
    """
    if targets.token_bytes is None:
        raise DataError(
            "bits_per_byte needs to know how many bytes each token stands for; use text_file or "
            "text_files of nas_theseus.tasks, or perplexity"
        )
    return BitsPerByte(targets.token_bytes())


MEMBER = NamedMetric("minimize", ("tokens",), make)
