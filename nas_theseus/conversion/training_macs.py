"""Multiply-adds of training: a backward pass costs two forward passes."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def training_macs(forward: Mapping[int, int], trained: Collection[int]) -> int:
    """Multiply-adds of one training step on one example.

    A trained block costs its forward pass, the gradient of its input and that of its weights. A
    frozen block after a trained one costs its forward pass and the gradient of its input. A frozen
    block before all trained ones costs its forward pass only.

    Args:
        forward: multiply-adds of each block's forward pass, by position.
        trained: positions whose weights are trained; at least one.
    """
    first = min(trained)
    return sum(
        macs * (3 if position in trained else 2 if position > first else 1)
        for position, macs in forward.items()
    )
