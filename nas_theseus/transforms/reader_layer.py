"""Layers that read channels of which some are left out: what they read, and how they make up."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nas_theseus.blocks.pruning import Reader, gram, refit
from nas_theseus.blocks.reading import enough, norm_behind, output_shares, rows_read, shift_outputs
from nas_theseus.errors import TransformError
from nas_theseus.transforms.layers import groups

# Inputs of one output up to which the taps of a kernel are fitted together: 3×3 of 512 channels.
TOGETHER = 4608


@dataclass(frozen=True)
class ReaderLayer:
    """A convolution or linear layer that reads a volume of which channels are left out.

    Attributes:
        module: the layer itself, which is refitted.
        weight: as the volume is whole, shape (O, C / groups, taps).
        channels: the volume's channel of each input channel, −1 for others, shape (C,).
        rows: what it reads, shape (P, C, taps); without its mean if `norm` or a bias can make up
            for it. P is 0 if only shapes are wanted.
        mean: that mean, shape (C, taps); None if nothing can make up for it.
        goals: outputs wanted for the rows, without bias, shape (P, O).
        norm: the batch norm behind it.
    """

    module: nn.Module
    weight: Tensor
    channels: Tensor
    rows: Tensor
    mean: Tensor | None
    goals: Tensor
    norm: nn.modules.batchnorm._BatchNorm | None

    @property
    def together(self) -> bool:
        """Whether the taps of a kernel are fitted together."""
        inputs = self.weight[0].numel()
        return enough(self.rows, inputs) and inputs <= TOGETHER

    def readers(self, *, taps_apart: bool = False) -> list[Reader]:
        """One reader for each group; taps that are not fitted together count as outputs.

        Args:
            taps_apart: take all taps as uncorrelated, which is much cheaper for large kernels.
        """
        count = groups(self.module)
        shares = output_shares(self.norm, len(self.weight))
        found = []
        for weight, rows, channels, outputs in zip(
            self.weight.chunk(count),
            self.rows.chunk(count, dim=1),
            self.channels.chunk(count),
            shares.chunk(count),
            strict=True,
        ):
            taps = weight.shape[2]
            if self.together and not taps_apart:
                owners = channels.repeat_interleave(taps)
                found.append(Reader(weight.flatten(1), gram(rows.flatten(1)), owners, outputs))
                continue
            apart = rows.transpose(1, 2).flatten(0, 1)
            if enough(apart, len(channels)) and len(channels) <= TOGETHER:
                products = gram(apart)
            elif len(apart):
                products = apart.double().square().sum(0)
            else:
                products = torch.ones(len(channels), dtype=torch.float64)
            flat = weight.transpose(1, 2).flatten(0, 1)
            found.append(Reader(flat, products, channels, outputs.repeat_interleave(taps)))
        return found

    def own_weights(self) -> list[Tensor]:
        """The weight of each group as `refit` takes it, without any channel left out."""
        weights = self.weight.chunk(groups(self.module))
        if self.together:
            return [weight.flatten(1) for weight in weights]
        return [weight.transpose(1, 2).flatten(0, 1) for weight in weights]

    def refit(self, fitted: list[Tensor], stay: Tensor, made: Tensor) -> None:
        """Give the layer, which has only these inputs (C,) and outputs (O,), its fitted weights.

        Args:
            fitted: of each group, as `prune_channels` returns them for `readers`.
        """
        count = groups(self.module)
        rows = self.rows[:, stay].chunk(count, dim=1)
        goals = self.goals.chunk(count, dim=1)
        weights = [
            refit(weight, read.flatten(1), wanted - self._lost(wanted))
            if self.together
            else weight.view(wanted.shape[1], read.shape[2], -1).transpose(1, 2).flatten(1)
            for weight, read, wanted in zip(fitted, rows, goals, strict=True)
        ]
        old = self.module.get_parameter("weight")
        with torch.no_grad():
            old.copy_(torch.cat(weights)[made].view_as(old))
        if self.mean is not None:
            means = self.mean[stay].chunk(count)
            reached = [w @ mean.flatten() for w, mean in zip(weights, means, strict=True)]
            shift = self.goals.mean(0) - torch.cat(reached)
            shift_outputs(self.module, self.norm, shift[made])

    def _lost(self, goals: Tensor) -> Tensor:
        """The mean of goals, if a shift makes up for it."""
        return goals.mean(0) if self.mean is not None else goals.new_zeros(())


def reader_layer(
    part: nn.Module, name: str, channels: tuple[int, ...], features: Tensor, goals: Tensor
) -> ReaderLayer:
    """A layer of a part with what it reads on the part's inputs.

    Args:
        channels: the volume's channel of each input channel, −1 for others.
        features: inputs of the part, shape (N, *inlet).
        goals: outputs wanted for what `rows_read` samples of them, without bias, shape (P, O).

    Raises:
        TransformError: the layer is of another kind, or does not compute with its own weight.
    """
    module, rows = _refittable(part, name), rows_read(part, name, features)
    norm = norm_behind(part, name)
    mean = rows.mean(0) if len(rows) and (norm is not None or module.bias is not None) else None
    rows = rows if mean is None else rows - mean
    weight = module.weight.detach()
    weight = weight.reshape(*weight.shape[:2], -1)
    return ReaderLayer(module, weight, torch.tensor(channels), rows, mean, goals, norm)


def outputs_of(part: nn.Module, name: str, features: Tensor) -> Tensor:
    """Outputs of a layer without bias at the positions that `rows_read` samples, shape (P, O)."""
    module, rows = _refittable(part, name), rows_read(part, name, features)
    whole, count = module.get_parameter("weight").detach(), groups(module)
    return torch.cat(
        [
            read.flatten(1) @ weight.flatten(1).T
            for read, weight in zip(rows.chunk(count, 1), whole.chunk(count), strict=True)
        ],
        dim=1,
    )


def _refittable(part: nn.Module, name: str) -> nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d:
    module = part.get_submodule(name)
    if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        raise TransformError(
            f"{name!r} reads channels that would be left out and is {type(module).__name__}, "
            "which cannot be refitted; use Narrower for inner channels, and at_guide_widths() for "
            "those of the stream"
        )
    return module


def weighed(readers: list[Reader], decides: bool) -> list[Reader]:
    """A layer's readers, whose errors count relative to its outputs; or do not count."""
    total = 0.0
    for each in readers:
        weight = each.weight.double()
        if each.outputs is not None:
            weight = weight * each.outputs.sqrt()[:, None]
        seen = weight @ each.products if each.products.ndim == 2 else weight * each.products
        total += float((seen * weight).sum())
    share = 1 / max(total, 1e-30) if decides else 0.0
    return [replace(each, share=share) for each in readers]


def stays(channels: Tensor, kept: Tensor) -> Tensor:
    """Which places hold kept channels or none of the volume's."""
    return (channels < 0) | torch.isin(channels, kept)
