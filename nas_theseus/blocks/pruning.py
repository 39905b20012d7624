"""Which inputs of a linear map can be left out, and the map refitted to the inputs that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """Products (…, H, H) plus a multiple of the identity, relative to their mean diagonal.

    Products of shape (H,) are such a diagonal by itself.
    """
    if products.ndim == 1:
        return products + ridge * products.mean().clamp(min=1e-12)
    mean = products.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-12)[..., None, None]
    return products + ridge * mean * torch.eye(products.shape[-1]).to(products)


def prune_inputs(
    weight: Tensor, products: Tensor, keep: int, size: int = 1
) -> tuple[Tensor, Tensor]:
    """Leave out the inputs of a linear map that are missed least, and refit the rest to make up.

    Args:
        weight: the map, shape (O, H).
        products: sum of the outer products of its inputs (H, H), as `gram` returns them.
        keep: number of groups to keep.
        size: number of neighbouring inputs in a group, such as those of one head.

    Returns:
        Indices of the inputs kept, ascending, shape (keep · size,); and the refitted map, shape
        (O, keep · size). It minimises the mean ‖W x − W′ x_kept‖², plus a small ridge ‖W − W′‖².

    Source: as `prune_channels`; the refit alone is He et al. 2017, arXiv:1707.06168.
    """
    groups = weight.shape[1] // size
    owners = torch.arange(groups, device=weight.device).repeat_interleave(size)
    groups_kept, (fitted,) = prune_channels([Reader(weight, products, owners)], groups, keep)
    return inputs_of(groups_kept, size), fitted


@dataclass(frozen=True)
class Reader:
    """A linear map that reads channels of which some are to be left out.

    Attributes:
        weight: shape (O, H).
        products: sum of the outer products of its inputs, shape (H, H); or that matrix's diagonal,
            shape (H,), if the inputs are taken as uncorrelated. Nothing is then refitted.
        channels: the channel that each input belongs to, each equally often; −1 for inputs that
            stay whatever is left out. Shape (H,).
        outputs: what a squared error of each output counts, shape (O,); None if all count 1.
        share: what all its errors count beside those of other readers; with 0 it is refitted only.
    """

    weight: Tensor
    products: Tensor
    channels: Tensor
    outputs: Tensor | None = None
    share: float = 1.0


def prune_channels(
    readers: Sequence[Reader], width: int, keep: int, ranges: int = 1
) -> tuple[Tensor, list[Tensor]]:
    """Leave out the channels that their readers miss least, and refit the readers to make up.

    Channels are removed step by step. Each step removes those whose removal, with all remaining
    weights of every reader at their least-squares solution, changes the readers' outputs least.

    Args:
        width: number of channels.
        keep: number of channels to keep.
        ranges: number of equal ranges of channels that keep equally many.

    Returns:
        The channels kept, ascending, shape (keep,); and each reader's refitted weight, shape
        (O, inputs kept).

    Source: structured optimal brain surgeon, Kurtic et al. 2023, arXiv:2302.04089, section 3; the
    sum over several readers is ours.
    """
    fits = [_Fit(reader) for reader in readers]
    alive = torch.arange(width, device=readers[0].weight.device)
    while len(alive) > keep:
        leaving = _remove_some(fits, alive.view(ranges, -1), width, keep // ranges)
        alive = alive[~torch.isin(alive, leaving)]
    return alive, [fit.weight.to(r.weight.dtype) for fit, r in zip(fits, readers, strict=True)]


def removal_order(readers: Sequence[Reader], width: int) -> Tensor:
    """All channels in the order in which `prune_channels` removes them; shape (width,).

    Its last `keep` channels are those that `prune_channels` keeps: sets of different sizes are
    nested.
    """
    fits = [_Fit(reader) for reader in readers]
    alive, order = torch.arange(width, device=readers[0].weight.device), []
    while len(alive) > 1:
        leaving = _remove_some(fits, alive[None], width, 1)
        alive = alive[~torch.isin(alive, leaving)]
        order.append(leaving)
    return torch.cat([*order, alive])


def _remove_some(fits: Sequence[_Fit], apart: Tensor, width: int, keep: int) -> Tensor:
    """Remove the channels that are missed least, equally many of each range; returns them.

    Args:
        apart: the channels that are left, shape (ranges, left).
        keep: number of channels to keep in each range.
    """
    left = apart.shape[1]
    count = min(left - keep, max(1, int(left * AT_ONCE)))
    losses = torch.zeros(width, dtype=torch.float64, device=apart.device)
    for fit in fits:
        fit.add_losses(losses)
    leaving = apart.gather(1, losses[apart].argsort(dim=1, stable=True)[:, :count]).flatten()
    for fit in fits:
        fit.remove(leaving)
    return leaving


def without_channels(reader: Reader, leaving: Tensor) -> Tensor:
    """A reader's weight without these channels, refitted to make up for them: (O, inputs kept)."""
    fit = _Fit(reader)
    fit.remove(leaving)
    return fit.weight.to(reader.weight.dtype)


class _Fit:
    """A reader's weight while its inputs leave: always the least-squares solution."""

    def __init__(self, reader: Reader) -> None:
        known = with_ridge(reader.products)
        self.inverse = 1 / known if known.ndim == 1 else _inverse(known)
        self.weight = reader.weight.to(self.inverse)
        self.channels = reader.channels
        self._share = reader.share
        self._outputs = None if reader.outputs is None else reader.outputs.to(self.weight)[:, None]

    def add_losses(self, losses: Tensor) -> None:
        """Add by how much the outputs change without each channel, to losses of shape (width,)."""
        order = self.channels.argsort(stable=True)
        order = order[self.channels[order] >= 0]
        if not self._share or not len(order):
            return
        read = self.channels[order]
        places = order.view(-1, int((read == read[0]).sum()))
        weight = self.weight if self._outputs is None else self.weight * self._outputs.sqrt()
        if places.shape[1] == 1 or self.inverse.ndim == 1:
            diagonal = self.inverse if self.inverse.ndim == 1 else self.inverse.diagonal()
            found = (weight.square().sum(0) / diagonal)[places].sum(1)
        else:
            columns = weight[:, places]
            squares = torch.einsum("ocm,ocn->cmn", columns, columns)
            within = self.inverse[places[:, :, None], places[:, None, :]]
            found = (squares * _inverse(within)).sum((1, 2))
        losses.index_add_(0, read[:: places.shape[1]], self._share * found)

    def remove(self, channels: Tensor) -> None:
        """Leave out the inputs of these channels, and refit."""
        gone = torch.isin(self.channels, channels)
        stay = ~gone
        if self.inverse.ndim == 1:
            self.weight, self.inverse = self.weight[:, stay], self.inverse[stay]
        elif gone.any():
            within, beside = self.inverse[gone][:, gone], self.inverse[gone][:, stay]
            known = torch.cholesky_solve(beside, torch.linalg.cholesky(within))
            self.weight = self.weight[:, stay] - self.weight[:, gone] @ known
            self.inverse = self.inverse[stay][:, stay] - self.inverse[stay][:, gone] @ known
        self.channels = self.channels[stay]


def _inverse(products: Tensor) -> Tensor:
    """Inverse of symmetric positive definite matrices (…, H, H).

    By Cholesky's factors: MKL fails on several matrices at once with pivots and threads.
    """
    return torch.cholesky_inverse(torch.linalg.cholesky(products))


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
    change = torch.cholesky_solve(crossed.T, torch.linalg.cholesky(products)).T
    fitted: Tensor = (weight.to(change) + change).to(weight.dtype)
    return fitted


def low_rank(weight: Tensor, products: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (…, O, rank) and (…, rank, H) whose product changes a map's outputs least.

    Args:
        weight: the map, shape (…, O, H).
        products: sum of the outer products of its inputs (…, H, H).

    Source: reduced-rank regression; Eckart and Young 1936 on W C^½ for inputs of covariance C.
    """
    values, vectors = torch.linalg.eigh(with_ridge(products, 1e-6))
    root = vectors * values.clamp(min=0).sqrt()[..., None, :]
    left, _, _ = torch.linalg.svd(weight.to(root) @ root, full_matrices=False)
    return _onto(left[..., :rank], weight)


def low_rank_of_outputs(weight: Tensor, outputs: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """As `low_rank`, from the sum of the outer products of the outputs (O, O) instead.

    It is cheaper for maps that have more inputs than outputs.
    """
    _, vectors = torch.linalg.eigh(with_ridge(outputs, 1e-6))
    return _onto(vectors.flip(1)[:, :rank], weight)


def _onto(basis: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """A map whose outputs are projected on an orthonormal basis (…, O, rank), as two factors."""
    return basis.to(weight.dtype), (basis.mT @ weight.to(basis)).to(weight.dtype)
