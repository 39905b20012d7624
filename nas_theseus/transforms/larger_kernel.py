"""Enlarge a convolution's kernel with zeros, without changing its outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from nas_theseus.errors import TransformError
from nas_theseus.transforms.lineage import Lineage
from nas_theseus.transforms.students import example, make_student
from nas_theseus.values.architecture import Boundary


def enlarge_kernel(
    model: nn.Module,
    layer: str,
    kernel: int | Sequence[int],
    *,
    inlet: Boundary | Sequence[int],
    in_place: bool = False,
    lineage: Lineage | None = None,
) -> nn.Module:
    """Give a convolution a larger kernel: zeros around the old one, and more padding.

    Args:
        model: any module.
        layer: name of a convolution, grouped or not.
        kernel: new size in each positional dimension; larger by an even number.
        inlet: shape of one input of the model without the batch, or a task's inlet.
        in_place: change `model` itself instead of a copy.
        lineage: as for `widen`.

    Raises:
        TransformError: raised before any weight is changed: the layer is not a convolution or has
            its own forward, or the kernel is smaller, or larger by an odd number.

    Source: Wei et al. 2016, arXiv:1603.01670 (kernel-size morphing); R2R, section 3.2.
    """
    inputs = example(model, inlet)
    conv = dict(model.named_modules()).get(layer)
    plain = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)
    if not isinstance(conv, nn.Conv1d | nn.Conv2d | nn.Conv3d) or type(conv).forward not in plain:
        raise TransformError(
            f"{layer!r} is {type(conv).__name__}, not a convolution with torch's own forward"
        )
    old = conv.kernel_size
    new = (kernel,) * len(old) if isinstance(kernel, int) else tuple(kernel)
    more = [larger - size for larger, size in zip(new, old, strict=True)]
    if min(more) < 0 or max(more) == 0 or any(count % 2 for count in more):
        raise TransformError(
            f"the kernel of {layer!r} is {tuple(old)} and cannot grow to {new}; it must grow by an "
            "even number in each dimension to stay centred"
        )
    margin = [count // 2 for count in more for _ in range(2)][::-1]

    def change(network: nn.Module) -> None:
        changed = network.get_submodule(layer)
        assert isinstance(changed, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        weight = nn.functional.pad(changed.weight.detach(), margin)
        changed.weight = nn.Parameter(weight, requires_grad=changed.weight.requires_grad)
        changed.kernel_size = new
        if changed.padding != "same":
            given = (0,) * len(old) if isinstance(changed.padding, str) else changed.padding
            changed.padding = tuple(
                pad + count // 2 * dilation
                for pad, count, dilation in zip(given, more, changed.dilation, strict=True)
            )
            changed._reversed_padding_repeated_twice = [
                pad for pad in reversed(changed.padding) for _ in range(2)
            ]
        else:
            changed._reversed_padding_repeated_twice = [
                dilation * (size - 1) // 2
                for dilation, size in zip(reversed(changed.dilation), reversed(new), strict=True)
                for _ in range(2)
            ]

    what = f"enlarging the kernel of {layer!r} to {new}"
    student = make_student(model, change, inputs, what, preserved=True, in_place=in_place)
    if lineage is not None:
        for dim, (size, count) in enumerate(zip(old, more, strict=True), start=2):
            outside = torch.full((count // 2,), -1)
            lineage.resized(
                f"{layer}.weight", dim, torch.cat([outside, torch.arange(size), outside])
            )
    return student
