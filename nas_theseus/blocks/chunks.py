"""Linear recurrences over tokens, chunk by chunk: parallel within a chunk, sequential between them.

Logarithms of gates are summed within a chunk only, so the sums stay small for any number of tokens.
Over thousands of tokens, sums in float32 would lose most of their digits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64


def in_chunks(tensor: Tensor, tokens: int, chunk: int = CHUNK) -> Tensor:
    """Tokens (…, T, D) as (…, n, C, D), padded with zeros at the end.

    Args:
        tokens: T as a number, since shapes are not numbers while tracing.
        chunk: number of tokens in a chunk; C is the smaller of it and T.
    """
    size = min(chunk, tokens)
    padded = F.pad(tensor, (0, 0, 0, -tokens % size))
    return torch.unflatten(padded, -2, (-1, size))


def carry(decay: Tensor, added: Tensor, first: Tensor | None = None) -> Tensor:
    """The state before each chunk, of S_n = decay_n · S_(n−1) + added_n.

    Args:
        decay: shape (…, n, ·, ·), broadcast to `added`.
        added: shape (…, n, K, V).
        first: S_0, shape (…, K, V). Default: zero.

    Returns:
        Shape (…, n, K, V).
    """
    state = torch.zeros_like(added[..., 0, :, :]) if first is None else first
    before = []
    for kept, new in zip(decay.unbind(-3), added.unbind(-3), strict=True):
        before.append(state)
        state = kept * state + new
    return torch.stack(before, -3)
