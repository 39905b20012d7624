"""A block for search spaces: a guide part without the inner channels that it needs least.

It belongs to this room, beside `Narrower`, because it follows channels through the part's graph;
how a map is pruned and refitted is `blocks.pruning`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nas_theseus.blocks.family import BlockFamily, Choice, block
from nas_theseus.blocks.pruning import Reader, gram, prune_channels, refit
from nas_theseus.blocks.reading import enough, norm_behind, output_shares, rows_read, shift_outputs
from nas_theseus.errors import TransformError
from nas_theseus.guide.tracing import evaluating
from nas_theseus.transforms.layers import groups, linear_map
from nas_theseus.transforms.parts import hidden_volumes
from nas_theseus.transforms.sites import removing
from nas_theseus.transforms.volume import Role, Volume
from nas_theseus.transforms.widening import find_volume, keep_channels
from nas_theseus.values.architecture import Hyperparameter

# Inputs of one output up to which the taps of a kernel are fitted together: 3×3 of 512 channels.
_TOGETHER = 4608
# Share of the part's multiply-adds below which channels of pooled values stay.
_CHEAP = 0.1


def FewerChannels(keep: Hyperparameter | Choice = 0.5) -> BlockFamily:
    """The guide's part with a share of its inner channels; the layers that read them are refitted.

    Unlike `Narrower`, what the channels left out did is taken over by those that stay.
    """
    return replace(block(fewer_channels, "fewer_channels", keep=keep), of_part=True)


def fewer_channels(part: nn.Module, features: Tensor, *, keep: float) -> nn.Module:
    """Leave out channels inside a part, and refit the layers that read them; changes `part`.

    One volume after the other is pruned (`prune_channels`) by what its readers do with it on the
    features; batch norms, depthwise convolutions and squeeze-excitation follow their channels. The
    last fit is to the outputs that each reader has in the unchanged part. The mean that is lost
    goes into the reader's bias or into the batch norm behind it. Channels of pooled values stay if
    they cost less than a tenth of the part, as those inside squeeze-excitation do.

    Where a kernel reads more inputs than there are positions, or more than 4608, its taps are taken
    as uncorrelated; where there are more channels than positions, so are the channels. With fewer
    than 8 examples, where only shapes are wanted, weights alone decide.

    Args:
        features: inputs of the part, shape (N, *inlet).
        keep: share of the channels to keep, between 0 and 1; at least one in each group.

    Raises:
        TransformError: the share keeps all channels, or the part has no inner channels that can be
            left out.
    """
    if not 0 < keep < 1:
        raise TransformError(f"keep={keep} is not a share between 0 and 1")
    pruning = _Pruning(part, features)
    for layer in _inner_layers(part, features[:2]):
        volume = find_volume(part, layer, features[:2])
        count = volume.groups * max(1, round(volume.width * keep / volume.groups))
        if count < volume.width:
            pruning.prune(volume, count)
    if not pruning.outputs:
        raise TransformError(f"keep={keep} keeps all its inner channels; use a smaller share")
    return part


def _inner_layers(part: nn.Module, features: Tensor) -> list[str]:
    """The first layer that writes each volume to prune.

    Raises:
        TransformError: there is none.
    """
    try:
        volumes = hidden_volumes(part, features)
    except TransformError as error:
        raise TransformError(
            f"{error}; cut the guide at whole residual blocks, or name the parts that have inner "
            "channels with .on(…)"
        ) from error
    positions = _positions(part, features)
    macs = {
        name: _weight(part.get_submodule(name)).numel() * written
        for name, (_, written) in positions.items()
    }

    def matters(volume: Volume) -> bool:
        own = {use.module for use in volume.uses} & macs.keys()
        pooled = positions[volume.layer][1] == 1
        return not pooled or sum(macs[name] for name in own) >= _CHEAP * sum(macs.values())

    found = [v.layer for v in volumes if v.layer in positions and matters(v)]
    if not found:
        raise TransformError(
            "its only inner channels are heads of an attention or those of pooled values, which "
            "stay whole; use Narrower"
        )
    return found


def _positions(part: nn.Module, features: Tensor) -> dict[str, tuple[int, int]]:
    """By convolution or linear layer: positions of one example in what it reads and writes."""
    found: dict[str, tuple[int, int]] = {}

    def add(name: str, module: nn.Module, given: Tensor, gave: Tensor) -> None:
        made = linear_map(module)
        assert made is not None
        weight = _weight(module)
        read = given.numel() // (len(given) * weight.shape[made.reads] * groups(module))
        found.setdefault(name, (read, gave.numel() // (len(gave) * weight.shape[made.writes])))

    hooks = [
        module.register_forward_hook(
            lambda module, given, gave, name=name: add(name, module, given[0], gave)
        )
        for name, module in part.named_modules()
        if linear_map(module) is not None
    ]
    with removing(hooks), evaluating(part):
        part(features.clone())
    return found


def _weight(module: nn.Module) -> Tensor:
    """A layer's weight, which may be computed from other parameters."""
    assert isinstance(module.weight, Tensor)
    return module.weight.detach()


@dataclass(frozen=True)
class _Layer:
    """A layer that reads the volume.

    Attributes:
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
        return enough(self.rows, inputs) and inputs <= _TOGETHER

    def readers(self) -> list[Reader]:
        """One reader for each group; taps that are not fitted together count as outputs."""
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
            if self.together:
                owners = channels.repeat_interleave(taps)
                found.append(Reader(weight.flatten(1), gram(rows.flatten(1)), owners, outputs))
                continue
            apart = rows.transpose(1, 2).flatten(0, 1)
            if enough(apart, len(channels)) and len(channels) <= _TOGETHER:
                products = gram(apart)
            elif len(apart):
                products = apart.double().square().sum(0)
            else:
                products = torch.ones(len(channels), dtype=torch.float64)
            flat = weight.transpose(1, 2).flatten(0, 1)
            found.append(Reader(flat, products, channels, outputs.repeat_interleave(taps)))
        return found

    def refit(self, fitted: list[Tensor], stay: Tensor, made: Tensor) -> None:
        """Give the layer, which has only these inputs (C,) and outputs (O,), its fitted weights."""
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


class _Pruning:
    """Leaves out channels of a part, volume by volume.

    Attributes:
        outputs: by layer, the outputs of the whole part's layer that are left.
    """

    def __init__(self, part: nn.Module, features: Tensor) -> None:
        self.outputs: dict[str, Tensor] = {}
        self._part, self._features = part, features
        self._whole = copy.deepcopy(part)

    def prune(self, volume: Volume, keep: int) -> None:
        """Keep so many channels of a volume."""
        part, example = self._part, self._features[:2]
        layers = [self._layer(name, layout.channels) for name, layout in volume.readers]
        positions = _positions(part, example)
        read = [positions[name][0] for name, _ in volume.readers]
        found = [
            _weighed(layer.readers(), count > 1 or max(read) == 1)
            for layer, count in zip(layers, read, strict=True)
        ]
        everything = [each for readers in found for each in readers]
        kept, fitted = prune_channels(everything, volume.width, keep, volume.groups)
        keep_channels(part, volume, kept, example, in_place=True)
        made = {
            use.module: _stays(torch.tensor(use.channels), kept)
            for use in volume.uses
            if use.role is Role.WRITES and use.tensor == "weight"
        }
        for (name, _), layer, readers in zip(volume.readers, layers, found, strict=True):
            every = torch.ones(len(layer.weight), dtype=torch.bool)
            stay = _stays(layer.channels, kept)
            layer.refit(fitted[: len(readers)], stay, made.get(name, every))
            fitted = fitted[len(readers) :]
        for name, outputs in made.items():
            self.outputs[name] = self.outputs.get(name, torch.arange(len(outputs)))[outputs]

    def _layer(self, name: str, channels: tuple[int, ...]) -> _Layer:
        module = self._part.get_submodule(name)
        if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            raise TransformError(
                f"{name!r} reads its inner channels and is {type(module).__name__}, which cannot "
                "be refitted; use Narrower"
            )
        rows = rows_read(self._part, name, self._features)
        norm = norm_behind(self._part, name)
        mean = rows.mean(0) if len(rows) and (norm is not None or module.bias is not None) else None
        goals = self._goals(name)
        rows = rows if mean is None else rows - mean
        weight = module.weight.detach()
        weight = weight.reshape(*weight.shape[:2], -1)
        return _Layer(module, weight, torch.tensor(channels), rows, mean, goals, norm)

    def _goals(self, name: str) -> Tensor:
        """Outputs of a layer in the whole part without bias, shape (P, O)."""
        rows = rows_read(self._whole, name, self._features)
        module = self._whole.get_submodule(name)
        whole, count = module.get_parameter("weight").detach(), groups(module)
        outputs = torch.cat(
            [
                read.flatten(1) @ weight.flatten(1).T
                for read, weight in zip(rows.chunk(count, 1), whole.chunk(count), strict=True)
            ],
            dim=1,
        )
        return outputs[:, self.outputs[name]] if name in self.outputs else outputs


def _weighed(readers: list[Reader], decides: bool) -> list[Reader]:
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


def _stays(channels: Tensor, kept: Tensor) -> Tensor:
    """Which places hold kept channels or none of the volume's."""
    return (channels < 0) | torch.isin(channels, kept)
