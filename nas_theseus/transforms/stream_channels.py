"""The streams of a guide, and in which order their channels can be left out."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nas_theseus.blocks.pruning import Reader, gram, removal_order
from nas_theseus.errors import TransformError
from nas_theseus.guide.chain import Guide, example_input
from nas_theseus.transforms.narrow_stream import channel_axis, inlet_volume, with_layers
from nas_theseus.transforms.reader_layer import outputs_of, reader_layer, weighed

# Positions of a boundary that are compared where the part behind it cannot be followed.
_POSITIONS = 8192


def streams(guide: Guide) -> tuple[range, ...]:
    """The boundaries of a guide in runs whose channels are the same ones.

    Two boundaries belong together if the channels of the first reach the second through the part
    between them: through additions and operations on single channels.
    """
    found: list[range] = []
    start = 0
    for index, part in enumerate(guide.parts):
        boundary = guide.boundaries[index]
        if boundary.integer or not _carries(part, example_input(part, boundary, batch=2)):
            found.append(range(start, index + 1))
            start = index + 1
    return (*found, range(start, len(guide) + 1))


def _carries(part: nn.Module, features: Tensor) -> bool:
    try:
        return inlet_volume(with_layers(part), features).outlet is not None
    except TransformError:
        return False


def stream_order(guide: Guide, stream: range, at: Callable[[int], Tensor]) -> Tensor:
    """A stream's channels in the order in which they can be left out; shape (C,).

    Each step leaves out the channels whose loss changes the outputs of all layers that read the
    stream least, each layer's outputs relative to what they are, with the remaining weights
    refitted (`blocks.pruning.removal_order`). The taps of a kernel count as uncorrelated. Where a
    part cannot be followed, the features themselves count instead of what reads them.

    Args:
        stream: boundaries, as `streams` gives them.
        at: the guide's activations at a boundary, shape (N, *boundary).
    """
    readers: list[Reader] = []
    for boundary in stream:
        features = at(boundary).cpu()
        part = guide.parts[boundary] if boundary < len(guide) else nn.Identity()
        readers += _readers(with_layers(copy.deepcopy(part).cpu()), features)
    return removal_order(readers, guide.boundaries[stream.start].width)


def _readers(part: nn.Module, features: Tensor) -> list[Reader]:
    try:
        volume = inlet_volume(part, features[:2]).volume
        layers = [
            reader_layer(part, name, each.channels, features, outputs_of(part, name, features))
            for name, each in volume.readers
        ]
    except TransformError:
        return _of_features(features)
    if not layers or not len(layers[0].rows):
        return _of_features(features)
    return [each for layer in layers for each in weighed(layer.readers(taps_apart=True), True)]


def _of_features(features: Tensor) -> list[Reader]:
    """The identity as the only reader: what is lost of the features themselves."""
    rows = features.movedim(channel_axis(features), -1).flatten(0, -2)
    rows = rows[:: -(-len(rows) // _POSITIONS)]
    width = rows.shape[1]
    products = gram(rows - rows.mean(0))
    return weighed([Reader(torch.eye(width), products, torch.arange(width))], True)
