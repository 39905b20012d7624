"""Pruning of a map's inputs against brute force and direct least squares."""

from __future__ import annotations

import itertools

import torch

from nas_theseus.blocks.pruning import gram, low_rank, prune_inputs, refit


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
