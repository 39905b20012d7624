"""The channels of a volume after a transform, and its tensors along one dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from nas_theseus.errors import TransformError
from nas_theseus.transforms.methods import Widening
from nas_theseus.transforms.volume import Role, Use


@dataclass(frozen=True)
class Channels:
    """The channels of a volume after a transform, in order.

    Attributes:
        source: the old channel that each one keeps or copies; −1 for free ones. Shape (C′,).
        twin: the channel whose new values each one shares, usually itself. Shape (C′,).
        kept: whether each one is an old channel. Shape (C′,).
    """

    source: Tensor
    twin: Tensor
    kept: Tensor

    def __len__(self) -> int:
        return len(self.source)


def widened(
    width: int, new: int, groups: int, method: Widening, generator: torch.Generator
) -> Channels:
    """`width` old channels and `new` ones; each group's share of the new is at its end.

    R2WiderR: x̂ = [x, p, p], eq. 11. Net2WiderNet: x̂_j = x_g(j) with g random, eq. 6.
    """
    old, share = width // groups, new // groups
    source: list[int] = []
    twin: list[int] = []
    for group in range(groups):
        start = len(twin)
        source += range(group * old, (group + 1) * old)
        twin += range(start, start + old + share)
        if method.writes == "copied":
            drawn = torch.randint(old, (share,), generator=generator) + group * old
            source += drawn.tolist()
        else:
            source += [-1] * share
        if method.writes == "paired":
            twin[-(share // 2) :] = twin[-share : -(share // 2)]
    kept = torch.tensor(([True] * old + [False] * share) * groups)
    return Channels(torch.tensor(source), torch.tensor(twin), kept)


def narrowed(chosen: Tensor) -> Channels:
    """Only the chosen channels, in their old order."""
    chosen = chosen.sort().values
    return Channels(chosen, torch.arange(len(chosen)), torch.ones(len(chosen), dtype=torch.bool))


@dataclass(frozen=True)
class Axis:
    """One dimension of a tensor after a transform.

    Attributes:
        old: the old index that each new index keeps or copies; −1 for free ones.
        twin: the index whose new values each one shares, usually itself.
        kept: whether each index is an old one.
        channel: the new channel at each index; −1 if it does not belong to the volume.
    """

    old: Tensor
    twin: Tensor
    kept: Tensor
    channel: Tensor

    def __len__(self) -> int:
        return len(self.old)


def axis_of(layout: Sequence[int], width: int, channels: Channels, where: str) -> Axis:
    """The new indices along a dimension whose old indices hold the channels of `layout`.

    Raises:
        TransformError: the dimension has only some of the channels, or in another order.
    """
    given = torch.tensor(layout)
    old: list[Tensor] = []
    twin: list[Tensor] = []
    kept: list[Tensor] = []
    channel: list[Tensor] = []
    place = count = 0
    while place < len(given):
        if given[place] < 0:
            pieces = [torch.tensor([n]) for n in (place, count, 1, -1)]
            place, made = place + 1, 1
        else:
            each = _run_length(given, place)
            size = width * each
            if not torch.equal(
                given[place : place + size], torch.arange(width).repeat_interleave(each)
            ):
                raise TransformError(
                    f"{where} has only some of the volume's channels, or in another order"
                )
            inner = torch.arange(each)
            spread = channels.source[:, None] * each + place + inner
            pieces = [
                torch.where(channels.source[:, None] < 0, -1, spread),
                channels.twin[:, None] * each + count + inner,
                channels.kept[:, None].expand(-1, each),
                torch.arange(len(channels))[:, None].expand(-1, each),
            ]
            place, made = place + size, len(channels) * each
        for found, piece in zip((old, twin, kept, channel), pieces, strict=True):
            found.append(piece.flatten())
        count += made
    return Axis(torch.cat(old), torch.cat(twin), torch.cat(kept).bool(), torch.cat(channel))


def _run_length(given: Tensor, place: int) -> int:
    other = (given[place:] != given[place]).nonzero()
    return int(other[0]) if len(other) else len(given) - place


def regrow(
    tensor: Tensor,
    use: Use,
    axis: Axis,
    method: Widening | None,
    deviation: float,
    noise: float,
    generator: torch.Generator,
) -> Tensor:
    """A tensor with the new indices of one dimension; free ones are drawn as the method says.

    Producers, eq. 8: W′ = [W; U; U], b′ = [b; β; β]. Consumers, eq. 9: V′ = [V, Z, −Z].
    Net2WiderNet's consumers, eq. 6: V′_j = V_g(j) / |{k : g(k) = g(j)}|.

    Args:
        tensor: weight, bias or statistic.
        use: how the tensor uses the volume's channels.
        axis: the new indices.
        method: method of widening; None if no index is new.
        deviation: standard deviation of free weights.
        noise: standard deviation of noise added to new weights at the end.
        generator: random generator, on the CPU.
    """
    device = tensor.device
    rows = tensor.detach().index_select(use.dim, axis.old.clamp(min=0).to(device))
    rows = rows.movedim(use.dim, 0)
    free, new = (axis.old < 0).to(device), (~axis.kept).to(device)
    if method is not None and new.any():
        way = method.reads if use.role is Role.READS else method.writes
        if free.any():
            rows[free] = _free(tensor, use, rows[free].shape, way, deviation, generator)
        follows = axis.twin != torch.arange(len(axis))
        rows[follows.to(device)] = rows[axis.twin[follows].to(device)] * (
            -1 if way == "cancelling" else 1
        )
        if way == "shared":
            copies = torch.bincount(axis.old, minlength=tensor.shape[use.dim])[axis.old]
            rows = rows / copies.to(rows).view(-1, *[1] * (rows.ndim - 1))
        if noise and not use.statistic:
            rows[new] += uniform(rows[new].shape, noise, generator).to(rows)
    return rows.movedim(0, use.dim).contiguous()


def _free(
    tensor: Tensor,
    use: Use,
    shape: torch.Size,
    way: str,
    deviation: float,
    generator: torch.Generator,
) -> Tensor:
    """Values for indices that no old index determines."""
    if use.statistic:
        if way == "zero" and use.tensor in ("bias", "running_mean"):
            return tensor.new_zeros(shape)  # zero in, zero out
        old = tensor.detach().movedim(use.dim, 0)[torch.tensor(use.channels) >= 0]
        return old.mean(0).expand(shape)
    if way == "zero" and not (use.role is Role.EACH and use.tensor == "weight"):
        return tensor.new_zeros(shape)
    return uniform(shape, deviation, generator).to(tensor)


def uniform(shape: torch.Size, deviation: float, generator: torch.Generator) -> Tensor:
    """U(−√3·s, √3·s), whose standard deviation is s (the source's section 6)."""
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (2 * drawn - 1) * sqrt(3) * deviation
