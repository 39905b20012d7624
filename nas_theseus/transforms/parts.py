"""Blocks for search spaces: wider, deeper and narrower forms of a guide part.

    blocks=[Keep(), Wider(width=choice(2, 1.5)), Deeper(layers=choice(1, 2)), Narrower(width=0.5)]

A form keeps the part's boundaries; the hidden widths and layers between them grow or shrink. Wider
and deeper forms compute the same as the part, so they are never aligned. A narrower form starts
from the most important channels and is then aligned like other blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor, nn

from nas_theseus.blocks.family import BlockFamily, Choice, block
from nas_theseus.errors import TransformError
from nas_theseus.transforms.closing_activation import closing_activation
from nas_theseus.transforms.deepening import deepen
from nas_theseus.transforms.growth_options import GrowthOptions
from nas_theseus.transforms.larger_kernel import enlarge_kernel
from nas_theseus.transforms.layers import linear_map
from nas_theseus.transforms.lineage import Lineage
from nas_theseus.transforms.self_attention import is_attention
from nas_theseus.transforms.students import example
from nas_theseus.transforms.volume import Role, Volume
from nas_theseus.transforms.widening import find_volume, narrow, widen
from nas_theseus.values.architecture import Boundary, Hyperparameter
from nas_theseus.values.keywords import completed


def Wider(width: Hyperparameter | Choice = 2.0, kernel: Hyperparameter | Choice = 0) -> BlockFamily:
    """The guide's part with `width` times the hidden channels, and kernels larger by `kernel`."""
    return replace(block(grown, "wider", width=width, kernel=kernel), of_part=True, preserves=True)


def Deeper(
    layers: Hyperparameter | Choice = 1,
    width: Hyperparameter | Choice = 1.0,
    kernel: Hyperparameter | Choice = 0,
) -> BlockFamily:
    """The guide's part, optionally wider, followed by `layers` residual blocks."""
    return replace(
        block(grown, "deeper", layers=layers, width=width, kernel=kernel),
        of_part=True,
        preserves=True,
    )


def Narrower(width: Hyperparameter | Choice = 0.5) -> BlockFamily:
    """The guide's part with `width` times the hidden channels: the most important ones."""
    return replace(block(shrunk, "narrower", width=width), of_part=True)


def grown(
    part: nn.Module,
    features: Tensor,
    *,
    width: float = 1.0,
    layers: int = 0,
    kernel: int = 0,
) -> nn.Module:
    """A larger form of a part that computes the same outputs; changes `part`.

    Every volume inside the part is widened by `r2wider`, attention by adding heads. The number of
    new channels is rounded to what pairs and groups allow, at least one pair. Residual blocks after
    the part start as zero (`deepen`), with the part's last activation after the addition if that
    is exact. Random numbers come from torch's global generator.

    Args:
        features: inputs of the part, shape (N, *inlet).
        width: width of hidden volumes, as a multiple of the part's; at least 1.
        layers: number of residual blocks after the part.
        kernel: growth of the convolutions' kernels, except 1×1 ones; even.

    Raises:
        TransformError: nothing would grow, the width is below 1, or nothing in the part can be
            widened or have a larger kernel.
    """
    if width < 1 or layers < 0 or (width == 1 and not layers and not kernel):
        raise TransformError(
            f"width={width}, layers={layers}, kernel={kernel} does not grow it: use a width above "
            "1, layers, or a larger kernel; for a narrower form use Narrower"
        )
    inlet = Boundary(tuple(features.shape[1:]), integer=not features.is_floating_point())
    model = nn.Sequential(part)
    if width > 1:
        widen_all(model, inlet, width, seed=_seed(), in_place=True)
    if kernel:
        convolutions = _spatial_convolutions(model)
        if not convolutions:
            raise TransformError("it has no convolution with a kernel larger than 1")
        for name, conv in convolutions.items():
            sizes = [size + kernel if size > 1 else size for size in conv.kernel_size]
            enlarge_kernel(model, name, sizes, inlet=inlet, in_place=True)
    for _ in range(layers):
        activation = closing_activation(model, "0", features[:2])
        deepen(model, "0", activation=activation, inlet=inlet, seed=_seed(), in_place=True)
    return model


def widen_all(
    model: nn.Module,
    inlet: Boundary | Sequence[int],
    width: float,
    method: str = "r2wider",
    *,
    lineage: Lineage | None = None,
    **options: Unpack[GrowthOptions],
) -> nn.Module:
    """Widen every hidden volume of a network, one by one; its input and output keep their widths.

    Args:
        model: as for `widen`.
        inlet: as for `widen`.
        width: width of each volume, as a multiple above 1; with every method, the number of new
            channels is rounded to pairs that groups can share equally, at least one pair.
        method: as for `widen`.
        lineage: as for `widen`.
        options: as for `widen`; the seed is that of the first volume, and increases by 1 for each
            further volume.

    Raises:
        TransformError: as for `widen`, or there is no hidden volume.
    """
    defaults = GrowthOptions(scale=1.0, noise=0.0, seed=0, in_place=False)
    grown = completed("widen_all", options, defaults)
    student = model if grown["in_place"] else copy.deepcopy(model)
    for number, volume in enumerate(hidden_volumes(student, example(model, inlet))):
        pair = 2 * volume.groups
        channels = volume.width + pair * max(1, round(volume.width * (width - 1) / pair))
        own = GrowthOptions(
            scale=grown["scale"], noise=grown["noise"], seed=grown["seed"] + number, in_place=True
        )
        widen(student, volume.layer, channels, method, inlet=inlet, lineage=lineage, **own)
    return student


def shrunk(part: nn.Module, features: Tensor, *, width: float) -> nn.Module:
    """A narrower form of a part, from its most important channels; changes `part`.

    Args:
        features: sample of the part's inputs, shape (N, *inlet), to rank channels by importance.
        width: width of hidden volumes, as a share of the part's; each keeps at least one channel
            per group.

    Raises:
        TransformError: the share is 1 or more, or nothing in the part can be narrowed.
    """
    if not 0 < width < 1:
        raise TransformError(f"width={width} does not shrink it: use a share between 0 and 1")
    model = nn.Sequential(part)
    changed = False
    for volume in hidden_volumes(model, features[:2]):
        kept = volume.groups * max(1, round(volume.width * width / volume.groups))
        if kept < volume.width:
            narrow(model, volume.layer, kept, sample=features, in_place=True)
            changed = True
    if not changed:
        raise TransformError("its hidden volumes have no channel that can be removed")
    return model


def hidden_volumes(model: nn.Module, features: Tensor) -> list[Volume]:
    """The volumes inside a part, each once; the heads of an attention are one volume.

    Raises:
        TransformError: there is none.
    """
    found: list[Volume] = []
    refusals: dict[str, str] = {}
    written: set[str] = set()
    for name, module in model.named_modules():
        if name in written or not (is_attention(module) or linear_map(module) is not None):
            continue
        try:
            volume = find_volume(model, name, features)
        except TransformError as error:
            refusals[name] = str(error)
            continue
        written |= {use.module for use in volume.uses if use.role is not Role.READS}
        found.append(volume)
    if not found:
        first = next(iter(refusals.values()), "it has no convolution, linear layer or attention")
        raise TransformError(f"it has no hidden channels between its boundaries: {first}")
    return found


def _spatial_convolutions(model: nn.Module) -> dict[str, nn.Conv1d | nn.Conv2d | nn.Conv3d]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and max(module.kernel_size) > 1
    }


def _seed() -> int:
    return int(torch.randint(2**31, ()))
