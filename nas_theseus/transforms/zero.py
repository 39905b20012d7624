"""Zero initialisation: make a block return zero for any input and still train."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import Node

from nas_theseus.errors import TransformError
from nas_theseus.guide.tracing import label
from nas_theseus.transforms import layers
from nas_theseus.transforms.sites import Site, site_around
from nas_theseus.transforms.volume import Role, follow


def zero_initialise(block: nn.Module, inputs: Tensor, *, cancel: bool = True) -> None:
    """Make a block return zero for any input, in place; only its last two layers change.

    With L₁ and L₂ the last two layers, L₂(σ(L₁ u)): L₁ = [U; U] with bias [β; β] and L₂ = [Z, −Z]
    with bias 0. U, β and Z are arbitrary: here the first halves of the block's weights. L₂ may only
    be followed by activations with σ(0) = 0. L₁ and L₂ both have gradients at the first step.

    Args:
        block: any module that torch.fx can trace and that ends in a convolution or linear layer,
            optionally followed by activations, dropout and views.
        inputs: inputs of the block, to determine shapes.
        cancel: if False, L₂ = 0 instead; L₁ then starts to learn one step later.

    Raises:
        TransformError: raised before any weight is changed: a normalisation or another operation
            follows the last layer; an activation there is not 0 at 0; the last layer is grouped;
            with `cancel`, the hidden volume has an odd width or halves that cannot be equal, or
            there is no second-last layer.

    Source: R2R, section 4.3, eqs. 19–23, and appendix C.3. A zero last layer is *ours*.
    """
    site = site_around(nn.Sequential(block), inputs)  # so that a single layer is a submodule
    last = _last_layer(site)
    module = site.module(last)
    found = layers.linear_map(module)
    assert found is not None
    name = str(last.target)
    if layers.groups(module) > 1:
        raise TransformError(
            f"the last layer {name!r} has {layers.groups(module)} groups; end the block in a layer "
            "that reads all channels"
        )
    changed: list[tuple[Tensor, int, int]] = [] if not cancel else _halves(site, last, found)
    with torch.no_grad():
        for tensor, dim, sign in changed:
            first, second = tensor.chunk(2, dim)
            second.copy_(first * sign)
        weight, bias = module.get_parameter("weight"), getattr(module, "bias", None)
        if not cancel:
            weight.zero_()
        if isinstance(bias, Tensor):
            bias.zero_()


def _halves(site: Site, last: Node, found: layers.LinearMap) -> list[tuple[Tensor, int, int]]:
    """Tensors, dimensions, and the sign with which the second half repeats the first."""
    source, name = last.all_input_nodes[0], str(last.target)
    axis = len(site.shapes[source]) - 1 - found.positions
    volume = follow(site, source, axis, name)
    whole = tuple(range(volume.width))
    if volume.width % 2:
        raise TransformError(
            f"zero initialisation needs two equal halves; {name!r} reads {volume.width} channels"
        )
    changed = []
    for use in volume.uses:
        if use.role is Role.READS:
            continue
        holder = site.trace.module.get_submodule(use.module)
        if use.channels != whole or layers.groups(holder) not in (
            1,
            len(getattr(holder, use.tensor)),
        ):
            raise TransformError(
                f"zero initialisation needs two equal halves of the channels that {name!r} reads, "
                f"but {use.name!r} writes only some of them"
            )
        changed.append((getattr(holder, use.tensor), use.dim, 1))
    return [*changed, (site.module(last).get_parameter("weight"), found.reads, -1)]


def _last_layer(site: Site) -> Node:
    """The last layer, followed only by views and activations with σ(0) = 0."""
    node = site.trace.output.all_input_nodes[0]
    while True:
        module = site.module(node) if node.op == "call_module" else None
        if module is not None and layers.linear_map(module) is not None:
            return node
        sources = [source for source in node.all_input_nodes if source in site.shapes]
        name = type(module).__name__ if module is not None else layers.function_name(node)
        if module is not None and (layers.is_batch_norm(module) or "Norm" in name):
            raise TransformError(
                f"{label(node)!r} normalises after the last layer, which makes the block's output "
                "large at the optimizer's first step; remove it, or put it before the last layer"
            )
        if len(sources) != 1 or node.op == "placeholder":
            raise TransformError(
                f"a block that returns zero must end in one layer; this one ends in {label(node)!r}"
            )
        if name not in layers.MOVES and not _keeps_zero(site, node):
            raise TransformError(
                f"{label(node)!r} ({name}) after the last layer is not 0 at 0, so the block cannot "
                "return zero and train; use ReLU, GELU or tanh, or none"
            )
        node = sources[0]


def _keeps_zero(site: Site, node: Node) -> bool:
    zeros = torch.zeros(site.shapes[node.all_input_nodes[0]])
    try:
        return bool((site.call(node, {node.all_input_nodes[0]: zeros}) == 0).all())
    except (RuntimeError, TypeError, ValueError):
        return False
