"""A guide part between narrower boundaries: channels of the stream left out, its layers refitted.

A stream is what passes through parts that add to it. Its channels can only be left out in all parts
that read or write it together; which ones is decided once for a stream (`stream_channels`).
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.fx import Node

from nas_theseus.blocks.family import BlockFamily, block
from nas_theseus.blocks.pruning import without_channels
from nas_theseus.blocks.reading import FEWEST_EXAMPLES
from nas_theseus.errors import TransformError
from nas_theseus.guide.tracing import evaluating
from nas_theseus.transforms.layers import groups, names_of_class
from nas_theseus.transforms.parts import hidden_volumes
from nas_theseus.transforms.reader_layer import ReaderLayer, outputs_of, reader_layer, stays
from nas_theseus.transforms.sites import Site, site_around
from nas_theseus.transforms.volume import Layout, OpenVolume, Role, Volume, follow_open
from nas_theseus.transforms.widening import keep_open_channels


def NarrowStream() -> BlockFamily:
    """The guide's part with all its inner channels, between boundaries of other `widths`."""
    family = replace(block(as_narrowed, "narrow_stream"), of_part=True, at_own_widths=False)
    return replace(family, narrowing=narrow_part)


def as_narrowed(part: nn.Module, features: Tensor) -> nn.Module:
    """The part itself, which has been narrowed before (`narrow_part`)."""
    return part


def narrow_part(
    part: nn.Module, features: Tensor, inlet: Tensor | None, outlet: Tensor | None
) -> tuple[nn.Module, Tensor]:
    """Leave out channels of a part's input and output; changes `part`.

    The layers that read the input are refitted to their outputs in the unchanged part, and after
    them each layer inside. Biases and batch norms take up the means that are lost. The layers that
    write the output only lose outputs. With fewer than 8 examples, where only shapes are wanted,
    nothing is refitted.

    Args:
        features: inputs of the unchanged part, shape (N, *inlet).
        inlet, outlet: channels of the input and the output to keep, ascending; None for all.

    Returns:
        The part, and the features as it reads them.

    Raises:
        TransformError: channels of the input or the output cannot be followed into the part, or the
            part adds to its input and would not keep the same channels of both.
    """
    part = with_layers(part)
    whole, narrow = copy.deepcopy(part), features
    example = features[:2]
    with evaluating(whole):
        outputs = whole(example.clone())
    axis = channel_axis(outputs)
    joined = False
    outputs_left: dict[str, Tensor] = {}
    if inlet is not None:
        opened = inlet_volume(part, example)
        joined = opened.outlet is not None
        if joined and (outlet is None or not torch.equal(inlet, outlet)):
            raise TransformError(
                "it adds to its input, so both must have the same channels: choose equal widths"
            )
        narrow = features.index_select(channel_axis(features), inlet)
        outputs_left = _without_inputs(part, opened.volume, inlet, features, narrow)
    if outlet is not None and not joined:
        volume = _outlet_volume(part, narrow[:2])
        keep_open_channels(part, volume, outlet)
        outputs_left |= _written(volume, outlet)
    if inlet is not None and len(features) >= FEWEST_EXAMPLES:
        _refit_inside(part, whole, narrow, features, outputs_left)
    kept = outputs if outlet is None else outputs.index_select(axis, outlet)
    _refuse_other_shape(part, narrow[:2], kept.shape)
    return part, narrow


def channel_axis(features: Tensor) -> int:
    """The axis of the channels of features (N, C, H, W), (N, T, D) or (N, D)."""
    return 1 if features.ndim == 4 else features.ndim - 1


def with_layers(part: nn.Module) -> nn.Module:
    """The part; a single layer in an `nn.Sequential`, so that it has a name to be followed by."""
    return part if any(True for _ in part.children()) else nn.Sequential(part)


def inlet_volume(part: nn.Module, features: Tensor) -> OpenVolume:
    """The channels of a part's input, followed into the part.

    Args:
        part: no single layer (`with_layers`).
        features: inputs of the part, shape (N, *inlet).

    Raises:
        TransformError: an operation mixes them or is not known to keep them separate, or the output
            has them beside others.
    """
    site = _site(part, features)
    start = next(node for node in site.trace.nodes if node.op == "placeholder")
    opened = follow_open(site, start, channel_axis(features), "the stream of its input")
    end = opened.outlet
    if opened.volume.groups > 1:
        raise TransformError("a convolution reads its input in groups, which must stay whole")
    same = Layout(_axis(site, site.node), tuple(range(opened.volume.width)))
    if end is not None and end != same:
        raise TransformError("its output has the channels of its input beside others, or moved")
    if end is None and not opened.volume.readers:
        raise TransformError("no convolution or linear layer of it reads its input")
    return opened


def _outlet_volume(part: nn.Module, features: Tensor) -> Volume:
    """The channels of a part's output, followed back into the part."""
    site = _site(part, features)
    opened = follow_open(site, site.node, _axis(site, site.node), "the stream of its output")
    if opened.inlet is not None:
        raise TransformError("it adds to its input, so both must have the same channels")
    if opened.volume.groups > 1:
        raise TransformError("a convolution writes its output in groups, which must stay whole")
    return opened.volume


def _site(part: nn.Module, features: Tensor) -> Site:
    try:
        return site_around(part, features)
    except TransformError:
        raise
    except Exception as error:  # the user's module may raise anything
        raise TransformError(
            f"its channels cannot be followed ({type(error).__name__}: {error})"
        ) from error


def _axis(site: Site, node: Node) -> int:
    rank = len(site.shapes[node])
    return 1 if rank == 4 else rank - 1


def _without_inputs(
    part: nn.Module, volume: Volume, kept: Tensor, features: Tensor, narrow: Tensor
) -> dict[str, Tensor]:
    """Leave out channels of the input, and refit what reads them; outputs left, by layer."""
    if len(features) < FEWEST_EXAMPLES:
        for name, _ in volume.readers:
            outputs_of(part, name, features)  # refuses now what could not be refitted later
        keep_open_channels(part, volume, kept)
        return _written(volume, kept)
    layers = [_reader(part, name, layout, features) for name, layout in volume.readers]
    leaving = torch.arange(volume.width)
    leaving = leaving[~torch.isin(leaving, kept)]
    fitted = [[without_channels(each, leaving) for each in one.readers()] for one in layers]
    keep_open_channels(part, volume, kept)
    made = _written(volume, kept)
    normed = any(
        names_of_class(part.get_submodule(use.module)) & {"LayerNorm", "RMSNorm"}
        for use in volume.uses
    )
    for (name, layout), layer, weights in zip(volume.readers, layers, fitted, strict=True):
        every = torch.arange(len(layer.weight))
        outputs = made.get(name, every)
        layer.refit(weights, stays(layer.channels, kept), torch.isin(every, outputs))
        if normed:  # with other statistics, so that other values are read
            goals = layer.goals[:, outputs]
            _refit(reader_layer(part, name, layout.channels, narrow, goals))
    return made


def _reader(part: nn.Module, name: str, layout: Layout, features: Tensor) -> ReaderLayer:
    return reader_layer(part, name, layout.channels, features, outputs_of(part, name, features))


def _written(volume: Volume, kept: Tensor) -> dict[str, Tensor]:
    """By layer that writes a volume: the outputs that stay, of all that it had."""
    return {
        use.module: stays(torch.tensor(use.channels), kept).nonzero().flatten()
        for use in volume.uses
        if use.role is Role.WRITES and use.tensor == "weight"
    }


def _refit_inside(
    part: nn.Module, whole: nn.Module, narrow: Tensor, features: Tensor, left: dict[str, Tensor]
) -> None:
    """Refit the layers that read hidden volumes to what they give in the whole part.

    Args:
        left: by layer, the outputs of the whole part's layer that it still has.
    """
    try:
        volumes = hidden_volumes(part, narrow[:2])
    except TransformError:
        return  # nothing inside
    for volume in volumes:
        for name, layout in volume.readers:
            try:
                goals = outputs_of(whole, name, features)
                goals = goals[:, left[name]] if name in left else goals
                layer = reader_layer(part, name, layout.channels, narrow, goals)
            except TransformError:
                continue  # of another kind, or not with its own weight: it stays as it is
            _refit(layer)


def _refit(layer: ReaderLayer) -> None:
    """Refit a layer as it is, if as many positions of its outputs are known."""
    if len(layer.rows) != len(layer.goals):
        return
    inputs = torch.ones(layer.weight.shape[1] * groups(layer.module), dtype=torch.bool)
    outputs = torch.ones(len(layer.weight), dtype=torch.bool)
    layer.refit(layer.own_weights(), inputs, outputs)


def _refuse_other_shape(part: nn.Module, features: Tensor, wanted: torch.Size) -> None:
    try:
        with evaluating(part):
            # Called itself, a traced part would print its traceback.
            found = part.forward(features.clone()).shape
    except Exception as error:  # the user's module may raise anything
        raise TransformError(
            f"without channels of its stream it does not run ({type(error).__name__}: {error}); "
            "does its forward have a fixed width as a number?"
        ) from error
    if found != wanted:
        raise TransformError(
            f"without channels of its stream it gives {tuple(found)}, not {tuple(wanted)}"
        )
