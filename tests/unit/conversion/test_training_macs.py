"""Multiply-adds of a training step, by which blocks train."""

from __future__ import annotations

import pytest

from nas_theseus.conversion.training_macs import training_macs


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ((0, 1, 2), 3 * 111),
        ((1,), 1 + 3 * 10 + 2 * 100),  # in front: forward alone; behind: gradients cross it
        ((0, 2), 3 * 1 + 2 * 10 + 3 * 100),
        ((2,), 1 + 10 + 3 * 100),
    ],
)
def test_what_each_block_takes(trained: tuple[int, ...], expected: int) -> None:
    assert training_macs({0: 1, 1: 10, 2: 100}, trained) == expected


def test_a_chain_may_begin_anywhere() -> None:
    assert training_macs({4: 10, 5: 100}, {4}) == 3 * 10 + 2 * 100


def test_a_step_that_trains_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        training_macs({0: 1}, ())
