"""Pruning of a map's inputs against brute force and direct least squares."""

from __future__ import annotations

import itertools

import pytest
import torch

from nas_theseus.blocks.pruning import (
    Reader,
    gram,
    low_rank,
    low_rank_of_outputs,
    prune_channels,
    prune_inputs,
    refit,
)


def data(rows: int = 400, width: int = 8, outlet: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated inputs (rows, width) and a map (outlet, width)."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(width, width, generator=generator)
    inputs = torch.randn(rows, width, generator=generator) @ mixing
    return inputs, torch.randn(outlet, width, generator=generator)


def error(inputs: torch.Tensor, weight: torch.Tensor, kept: torch.Tensor) -> float:
    """Least squared error of a map that reads only some of its inputs, by torch's own solver."""
    goals = inputs @ weight.T
    best = torch.linalg.lstsq(inputs[:, kept], goals).solution
    return float((inputs[:, kept] @ best - goals).square().sum())


def test_the_refitted_map_is_the_least_squares_solution() -> None:
    inputs, weight = data()
    kept, fitted = prune_inputs(weight, gram(inputs), keep=5)
    reached = (inputs[:, kept] @ fitted.T - inputs @ weight.T).square().sum()
    assert float(reached) <= error(inputs, weight, kept) * 1.05


def test_a_single_input_is_left_out_where_it_costs_least() -> None:
    inputs, weight = data()
    kept, _ = prune_inputs(weight, gram(inputs), keep=7)
    choices = [torch.tensor(each) for each in itertools.combinations(range(8), 7)]
    best = min(choices, key=lambda each: error(inputs, weight, each))
    assert kept.tolist() == best.tolist()


def test_removal_of_several_is_near_the_best_of_all_choices() -> None:
    inputs, weight = data()
    kept, _ = prune_inputs(weight, gram(inputs), keep=4)
    errors = sorted(
        error(inputs, weight, torch.tensor(each)) for each in itertools.combinations(range(8), 4)
    )
    assert error(inputs, weight, kept) <= errors[len(errors) // 10]


def test_groups_stay_together() -> None:
    inputs, weight = data(width=12)
    kept, fitted = prune_inputs(weight, gram(inputs), keep=2, size=3)
    assert fitted.shape == (5, 6)
    assert kept.view(2, 3).tolist() == [[3 * g, 3 * g + 1, 3 * g + 2] for g in kept[::3] // 3]


def test_inputs_that_repeat_others_cost_nothing() -> None:
    inputs, weight = data(width=4)
    doubled, wide = torch.cat([inputs, inputs], dim=1), torch.cat([weight, weight], dim=1)
    kept, fitted = prune_inputs(wide, gram(doubled), keep=4)
    assert sorted(kept % 4) == [0, 1, 2, 3]
    goals = inputs @ (2 * weight).T
    off = (doubled[:, kept] @ fitted.T - goals).square().mean()
    assert off < 1e-4 * goals.square().mean()


def test_refit_solves_ridge_regression_around_the_old_map() -> None:
    inputs, weight = data()
    goals = inputs @ weight.T + torch.randn(400, 5, generator=torch.Generator().manual_seed(1))
    ridge = 0.5
    fitted = refit(weight, inputs, goals, ridge)
    products = (inputs.T @ inputs).double()
    penalty = ridge * products.diagonal().mean() * torch.eye(8, dtype=torch.float64)
    right = inputs.double().T @ goals.double() + penalty @ weight.double().T
    expected = torch.linalg.solve(products + penalty, right).T
    torch.testing.assert_close(fitted, expected.float(), rtol=1e-3, atol=1e-4)


def test_low_rank_is_the_best_of_its_rank_on_the_data() -> None:
    inputs, weight = data()
    out, into = low_rank(weight, gram(inputs), rank=2)
    outputs = inputs @ weight.T
    reached = (inputs @ (out @ into).T - outputs).square().sum()
    # No map of rank 2 can come nearer to the outputs than their own best approximation.
    singular = torch.linalg.svdvals(outputs)
    torch.testing.assert_close(reached, singular[2:].square().sum(), rtol=1e-3, atol=1e-3)


def test_low_rank_of_outputs_is_low_rank() -> None:
    inputs, weight = data()
    outputs = inputs @ weight.T
    out, into = low_rank_of_outputs(weight, gram(outputs), rank=2)
    expected, first = low_rank(weight, gram(inputs), rank=2)
    torch.testing.assert_close(out @ into, expected @ first, rtol=1e-3, atol=1e-3)


def test_maps_of_many_channels_are_factorised_at_once() -> None:
    inputs, weight = data()
    both = low_rank(torch.stack([weight, -2 * weight]), gram(inputs).expand(2, 8, 8), rank=2)
    out, into = low_rank(weight, gram(inputs), rank=2)
    torch.testing.assert_close(both[0] @ both[1], torch.stack([out @ into, -2 * out @ into]))


def test_several_readers_leave_out_the_channel_that_both_miss_least() -> None:
    inputs, first = data()
    _, second = data(outlet=3)
    second = second.flip(1)
    channels = torch.arange(8)
    kept, fitted = prune_channels(
        [Reader(each, gram(inputs), channels) for each in (first, second)], 8, keep=7
    )
    choices = [torch.tensor(each) for each in itertools.combinations(range(8), 7)]

    def both(each: torch.Tensor) -> float:
        return error(inputs, first, each) + error(inputs, second, each)

    assert kept.tolist() == min(choices, key=both).tolist()
    alone = prune_inputs(second, gram(inputs), keep=7)
    assert [each.shape for each in fitted] == [(5, 7), (3, 7)]
    shares = [
        Reader(first, gram(inputs), channels, share=0.0),
        Reader(second, gram(inputs), channels),
    ]
    kept, (_, weight) = prune_channels(shares, 8, keep=7)
    assert torch.equal(kept, alone[0])  # a reader whose errors do not count has no say
    torch.testing.assert_close(weight, alone[1])


def test_outputs_that_do_not_count_have_no_say() -> None:
    inputs, weight = data()
    counted = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    reader = Reader(weight, gram(inputs), torch.arange(8), counted)
    kept, _ = prune_channels([reader], 8, keep=3)
    assert torch.equal(kept, prune_inputs(weight[1:2], gram(inputs), keep=3)[0])


def test_ranges_keep_equally_many_and_fixed_inputs_stay() -> None:
    inputs, weight = data(width=9)
    channels = torch.tensor([0, 1, 2, 3, -1, 4, 5, 6, 7])
    kept, (fitted,) = prune_channels([Reader(weight, gram(inputs), channels)], 8, keep=4, ranges=2)
    assert [int((kept // 4 == half).sum()) for half in (0, 1)] == [2, 2]
    stay = (channels < 0) | torch.isin(channels, kept)
    assert fitted.shape == (5, 5)
    reached = (inputs[:, stay] @ fitted.T - inputs @ weight.T).square().sum()
    assert float(reached) <= error(inputs, weight, stay.nonzero().flatten()) * 1.05


def test_uncorrelated_inputs_are_chosen_by_size_and_nothing_is_refitted() -> None:
    inputs, weight = data()
    squares = inputs.double().square().sum(0)
    kept, (fitted,) = prune_channels([Reader(weight, squares, torch.arange(8))], 8, keep=3)
    importance = squares * weight.double().square().sum(0)
    assert kept.tolist() == sorted(importance.topk(3).indices.tolist())
    assert torch.equal(fitted, weight[:, kept])
    by_matrix, _ = prune_channels([Reader(weight, squares.diag(), torch.arange(8))], 8, keep=3)
    assert torch.equal(by_matrix, kept)


def test_groups_lose_what_direct_least_squares_says() -> None:
    inputs, weight = data(width=12)
    kept, _ = prune_inputs(weight, gram(inputs), keep=3, size=3)
    places = torch.arange(12).view(4, 3)
    choices = [torch.tensor(each) for each in itertools.combinations(range(4), 3)]
    best = min(choices, key=lambda each: error(inputs, weight, places[each].flatten()))
    assert kept.tolist() == places[best].flatten().tolist()


@pytest.mark.parametrize("threads", [1, 2])
def test_groups_of_many_inputs_are_pruned_with_any_number_of_threads(threads: int) -> None:
    """MKL's inverse of several large matrices at once by pivots fails with threads."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2048, 576, generator=generator)
    weight = torch.randn(576, 576, generator=generator)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        kept, fitted = prune_inputs(weight, gram(inputs), keep=1, size=192)
    finally:
        torch.set_num_threads(before)
    assert kept.shape == (192,) and fitted.isfinite().all()
