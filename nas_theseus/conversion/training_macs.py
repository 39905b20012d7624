"""Multiply-adds of training: forward once, backward twice a forward."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def training_macs(forward: Mapping[int, int], trained: Collection[int]) -> int:
    """Multiply-adds of one training step on one example.

    A trained block takes its forward, the gradient of its input and that of its weights. A frozen
    block behind a trained one takes its forward and the gradient of its input, a frozen block in
    front of all trained ones its forward alone.

    Args:
        forward: multiply-adds of each block's forward, by position.
        trained: positions whose weights move; at least one.
    """
    first = min(trained)
    return sum(
        macs * (3 if position in trained else 2 if position > first else 1)
        for position, macs in forward.items()
    )
