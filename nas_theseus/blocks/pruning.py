"""Which inputs of a linear map can be left out, and the map refitted to the inputs that stay."""

from __future__ import annotations

import torch
from torch import Tensor

# Ridge on refitted maps, as a share of the inputs' mean square: pulls towards the old map.
RIDGE = 1e-3
# Groups that are removed at once, as a share of those left; the first removals matter least.
AT_ONCE = 1 / 32


def gram(inputs: Tensor) -> Tensor:
    """Sum of the outer products of inputs (…, H), shape (H, H), in float64."""
    rows = inputs.flatten(0, -2)
    total = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
    for chunk in torch.split(rows, 4096):
        total += (chunk.T @ chunk).double()
    return total


def with_ridge(products: Tensor, ridge: float = RIDGE) -> Tensor:
    """Products (H, H) plus a multiple of the identity, relative to their mean diagonal."""
    mean = products.diagonal().mean().clamp(min=1e-12)
    return products + ridge * mean * torch.eye(len(products), dtype=products.dtype).to(products)


def prune_inputs(
    weight: Tensor, products: Tensor, keep: int, size: int = 1
) -> tuple[Tensor, Tensor]:
    """Leave out the inputs of a linear map that are missed least, and refit the rest to make up.

    Groups of inputs are removed step by step. Each step removes those whose removal, with all
    remaining weights at their least-squares solution, changes the map's outputs least.

    Args:
        weight: the map, shape (O, H).
        products: sum of the outer products of its inputs (H, H), as `gram` returns them.
        keep: number of groups to keep.
        size: number of neighbouring inputs in a group, such as those of one head.

    Returns:
        Indices of the inputs kept, ascending, shape (keep · size,); and the refitted map, shape
        (O, keep · size). It minimises the mean ‖W x − W′ x_kept‖², plus a small ridge ‖W − W′‖².

    Source: structured optimal brain surgeon, Kurtic et al. 2023, arXiv:2302.04089, section 3; the
    refit alone is He et al. 2017, arXiv:1707.06168.
    """
    groups = weight.shape[1] // size
    inverse = torch.linalg.inv(with_ridge(products))
    fitted = weight.to(inverse)
    alive = torch.arange(groups, device=weight.device)
    while len(alive) > keep:
        count = min(len(alive) - keep, max(1, int(len(alive) * AT_ONCE)))
        losses = _losses(fitted, inverse, alive, size)
        leaving = alive[losses.argsort(stable=True)[:count]]
        removed = inputs_of(leaving, size)
        known = torch.linalg.solve(inverse[removed][:, removed], inverse[removed])
        fitted = fitted - fitted[:, removed] @ known
        inverse = inverse - inverse[:, removed] @ known
        alive = alive[~torch.isin(alive, leaving)]
    kept = inputs_of(alive, size)
    return kept, fitted[:, kept].to(weight.dtype)


def _losses(fitted: Tensor, inverse: Tensor, alive: Tensor, size: int) -> Tensor:
    """By how much the mean squared output changes without each group, shape (len(alive),)."""
    if size == 1:
        return fitted[:, alive].square().sum(0) / inverse.diagonal()[alive]
    losses = []
    for group in alive:
        inputs = inputs_of(group[None], size)
        columns = fitted[:, inputs]
        losses.append((columns.T @ columns * torch.linalg.inv(inverse[inputs][:, inputs])).sum())
    return torch.stack(losses)


def inputs_of(groups: Tensor, size: int) -> Tensor:
    """Indices of the inputs of groups, in order."""
    return (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()


def refit(weight: Tensor, inputs: Tensor, goals: Tensor, ridge: float = RIDGE) -> Tensor:
    """A linear map fitted to goals by least squares, pulled towards the map it begins with.

    Args:
        weight: shape (O, H).
        inputs: shape (…, H).
        goals: outputs wanted for these inputs, shape (…, O).

    Returns:
        Shape (O, H): minimises the mean ‖W x − y‖² + ridge · ‖W − weight‖², the ridge relative to
        the inputs' mean square.
    """
    products = with_ridge(gram(inputs), ridge)
    missing = (goals - inputs @ weight.T).flatten(0, -2)
    rows = inputs.flatten(0, -2)
    crossed = torch.zeros(missing.shape[1], rows.shape[1], dtype=torch.float64).to(products)
    for off, given in zip(torch.split(missing, 4096), torch.split(rows, 4096), strict=True):
        crossed += (off.T @ given).double()
    change = torch.linalg.solve(products, crossed.T).T
    fitted: Tensor = (weight.to(change) + change).to(weight.dtype)
    return fitted


def low_rank(weight: Tensor, products: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (O, rank) and (rank, H) whose product changes a map's outputs least on its inputs.

    Args:
        weight: the map, shape (O, H).
        products: sum of the outer products of its inputs (H, H).

    Source: reduced-rank regression; Eckart and Young 1936 on W C^½ for inputs of covariance C.
    """
    values, vectors = torch.linalg.eigh(with_ridge(products, 1e-6))
    root = vectors * values.sqrt()
    left, _, _ = torch.linalg.svd(weight.to(root) @ root, full_matrices=False)
    basis = left[:, :rank]
    return basis.to(weight.dtype), (basis.T @ weight.to(basis)).to(weight.dtype)
