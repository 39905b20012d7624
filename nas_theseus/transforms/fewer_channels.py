"""A block for search spaces: a guide part without the inner channels that it needs least.

It belongs to this room, beside `Narrower`, because it follows channels through the part's graph;
how a map is pruned and refitted is `blocks.pruning`.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from nas_theseus.blocks.family import BlockFamily, Choice, block
from nas_theseus.blocks.pruning import prune_channels
from nas_theseus.errors import TransformError
from nas_theseus.guide.tracing import evaluating
from nas_theseus.transforms.layers import groups, linear_map
from nas_theseus.transforms.narrow_stream import narrow_part
from nas_theseus.transforms.parts import hidden_volumes
from nas_theseus.transforms.reader_layer import outputs_of, reader_layer, stays, weighed
from nas_theseus.transforms.sites import removing
from nas_theseus.transforms.volume import Role, Volume
from nas_theseus.transforms.widening import find_volume, keep_channels
from nas_theseus.values.architecture import Hyperparameter

# Share of the part's multiply-adds below which channels of pooled values stay.
_CHEAP = 0.1


def FewerChannels(keep: Hyperparameter | Choice = 0.5) -> BlockFamily:
    """The guide's part with a share of its inner channels; the layers that read them are refitted.

    Unlike `Narrower`, what the channels left out did is taken over by those that stay. In a space
    with `widths` it also stands between narrower boundaries (`NarrowStream`).
    """
    family = block(fewer_channels, "fewer_channels", keep=keep)
    return replace(family, of_part=True, narrowing=narrow_part)


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
        layers = [
            reader_layer(part, name, layout.channels, self._features, self._goals(name))
            for name, layout in volume.readers
        ]
        positions = _positions(part, example)
        read = [positions[name][0] for name, _ in volume.readers]
        found = [
            weighed(layer.readers(), count > 1 or max(read) == 1)
            for layer, count in zip(layers, read, strict=True)
        ]
        everything = [each for readers in found for each in readers]
        kept, fitted = prune_channels(everything, volume.width, keep, volume.groups)
        keep_channels(part, volume, kept, example, in_place=True)
        made = {
            use.module: stays(torch.tensor(use.channels), kept)
            for use in volume.uses
            if use.role is Role.WRITES and use.tensor == "weight"
        }
        for (name, _), layer, readers in zip(volume.readers, layers, found, strict=True):
            every = torch.ones(len(layer.weight), dtype=torch.bool)
            stay = stays(layer.channels, kept)
            layer.refit(fitted[: len(readers)], stay, made.get(name, every))
            fitted = fitted[len(readers) :]
        for name, outputs in made.items():
            self.outputs[name] = self.outputs.get(name, torch.arange(len(outputs)))[outputs]

    def _goals(self, name: str) -> Tensor:
        """Outputs of a layer in the whole part without bias, shape (P, O)."""
        outputs = outputs_of(self._whole, name, self._features)
        return outputs[:, self.outputs[name]] if name in self.outputs else outputs
