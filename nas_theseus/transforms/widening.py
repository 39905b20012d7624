"""Widen a hidden volume without changing the network's outputs, or narrow it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Unpack

import torch
from torch import Tensor, nn

from nas_theseus.errors import TransformError
from nas_theseus.guide.tracing import evaluating
from nas_theseus.transforms import layers
from nas_theseus.transforms.channels import Channels, axis_of, narrowed, regrow, widened
from nas_theseus.transforms.growth_options import GrowthOptions
from nas_theseus.transforms.lineage import Lineage
from nas_theseus.transforms.methods import Widening, widening
from nas_theseus.transforms.self_attention import SelfAttention, heads_of, is_attention, set_heads
from nas_theseus.transforms.sites import removing, site_of
from nas_theseus.transforms.students import example, make_student, output_of, replace
from nas_theseus.transforms.volume import Role, Use, Volume, volume_of
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.keywords import completed


def widen(
    model: nn.Module,
    layer: str,
    channels: int,
    method: str = "r2wider",
    *,
    inlet: Boundary | Sequence[int],
    lineage: Lineage | None = None,
    **options: Unpack[GrowthOptions],
) -> nn.Module:
    """Give a layer more channels; all tensors that write, normalise or read them are changed too.

    With x = σ(Wu + b) the widened volume and V the weight that reads it:

    - ``r2wider``: x̂ = [x, p, p], p = σ(Uu + β), V′ = [V, Z, −Z]; U, β and Z arbitrary (R2R,
      eqs. 8–13). If x passes through identity skips, every layer that writes the stream writes its
      own p in pairs, so that they cancel in every reader. A projection or downsampling skip reads
      and writes like any layer (section 4.2 and appendix C.2, with r the identity).
    - ``net2wider``: x̂_j = x_g(j) for a random g, V′_j = V_g(j) / |{k : g(k) = g(j)}| (Chen et al.
      2015; R2R, eq. 6). Copies get equal gradients: `noise` breaks the tie.
    - ``netmorph``: x̂ = [x, p], V′ = [V, 0]; ``netmorph-reverse``: p = σ(0) = 0, V′ = [V, Z] (Wei
      et al. 2016; R2R, eq. 7).
    - ``random-pad``: x̂ = [x, p], V′ = [V, Z]: the ablation that preserves nothing.

    Free weights are uniform with the standard deviation of the kernel they are added to (section
    6). Free statistics and parameters of norms are the mean of the existing ones (*ours*).

    Args:
        model: any module that torch.fx can trace, as for `guide.cut`; submodules that are kept
            whole may be traced by themselves. Names and classes do not change, except that an
            ``nn.MultiheadAttention`` with a new number of heads becomes `attention.SelfAttention`.
        layer: name of a convolution or linear layer whose output is widened (a depthwise one
            together with the layer before), or of an attention, whose heads are the channels.
        channels: new number of channels of the layer.
        method: one of the above.
        inlet: shape of one input without the batch, such as (3, 224, 224), or a task's inlet.
        lineage: records where parameters come from, for `Lineage.carry`.
        options: see `GrowthOptions`; the scale is 1 by default.

    Returns:
        The student, in the mode and on the device of the teacher.

    Raises:
        TransformError: raised before any weight is changed: the layer or method is unknown; there
            are not more channels than before; the number of new channels is odd for ``r2wider``,
            or cannot be shared equally by the groups of a convolution; the volume is an addition
            of several layers (a residual connection) for ``net2wider``; weights are tied or run
            twice; the channels reach the input, the output, a layer or group norm or another
            operation that mixes them; an activation is not 0 at 0 for ``netmorph-reverse``; the
            student computes other outputs.
    """
    chosen = widening(method)
    inputs = example(model, inlet)
    volume = find_volume(model, layer, inputs)
    new = channels - volume.width
    _refuse_widths(volume, channels, chosen)
    if chosen.residual == "no" and volume.joined is not None:
        raise TransformError(
            f"{method} cannot widen {layer!r}: {volume.joined!r} adds the outputs of several "
            "layers (a residual connection), whose copied channels would not match; use r2wider or "
            "netmorph"
        )
    defaults = GrowthOptions(scale=1.0, noise=0.0, seed=0, in_place=False)
    grown = completed("widen", options, defaults)
    scale, noise = grown["scale"] or 1.0, grown["noise"]
    generator = torch.Generator().manual_seed(grown["seed"])
    made = widened(volume.width, new, volume.groups, chosen, generator)
    change = _remake(model, volume, made, chosen, scale, noise, generator)
    preserved = chosen.preserved_eval == "exactly" and not noise
    what = f"widening {layer!r} from {volume.width} to {channels} channels by {method}"
    return _finish(model, change, inputs, what, preserved, grown["in_place"], lineage)


def narrow(
    model: nn.Module,
    layer: str,
    channels: int,
    *,
    sample: Tensor,
    in_place: bool = False,
    lineage: Lineage | None = None,
) -> nn.Module:
    """Keep only a layer's most important channels; unlike `widen`, this changes the function.

    Importance (*ours*) is a channel's contribution to the layers that read it: the sum over them of
    E[x_j²]·‖V_j‖² on the sample. Grouped convolutions keep equally many channels in each group.

    Args:
        model: as for `widen`.
        layer: as for `widen`.
        channels: number of channels to keep.
        sample: inputs of the network, shape (N, …), to measure activations.
        in_place: change `model` itself instead of a copy.
        lineage: as for `widen`.

    Raises:
        TransformError: as for `widen`, or there are not fewer channels than before.
    """
    output_of(model, sample)
    volume = find_volume(model, layer, sample[:2])
    if not 1 <= channels < volume.width:
        raise TransformError(
            f"{layer!r} has {volume.width} channels and can be narrowed to 1 to "
            f"{volume.width - 1}, not to {channels}"
        )
    if channels % volume.groups:
        raise TransformError(_not_shared_out(volume, channels, volume.groups))
    importance = importance_of(model, volume, sample).view(volume.groups, -1)
    best = importance.topk(channels // volume.groups, dim=1).indices
    starts = torch.arange(volume.groups)[:, None] * importance.shape[1]
    chosen = (best.cpu() + starts).flatten()
    return keep_channels(model, volume, chosen, sample[:2], in_place=in_place, lineage=lineage)


def keep_channels(
    model: nn.Module,
    volume: Volume,
    chosen: Tensor,
    inputs: Tensor,
    *,
    in_place: bool = False,
    lineage: Lineage | None = None,
) -> nn.Module:
    """Keep the chosen channels of a volume in all tensors that write, normalise or read them.

    Args:
        volume: of this model, as `find_volume` returns it.
        chosen: the channels to keep, shape (C′,); equally many in each of the volume's groups.
        inputs: inputs of the network to check the result with, shape (N, …).

    Raises:
        TransformError: the narrower network fails, or its outputs have another shape.
    """
    change = _remake(model, volume, narrowed(chosen), None, 1.0, 0.0, torch.Generator())
    what = f"narrowing {volume.layer!r} from {volume.width} to {len(chosen)} channels"
    return _finish(model, change, inputs, what, False, in_place, lineage)


def keep_open_channels(model: nn.Module, volume: Volume, chosen: Tensor) -> None:
    """Keep the chosen channels of a volume that may reach the input or the output, in place.

    Args:
        volume, chosen: as for `keep_channels`. Nothing is run, as the model's inputs may change.

    Raises:
        TransformError: tensors have the channels in an order of their own, or are tied.
    """
    _refuse_tied(model, volume, "its stream")
    _remake(model, volume, narrowed(chosen), None, 1.0, 0.0, torch.Generator())(model)


def importance_of(model: nn.Module, volume: Volume, sample: Tensor) -> Tensor:
    """Σ E[x_j²]·‖V_j‖² over the layers that read channel j, shape (C,)."""
    found = torch.zeros(volume.width, dtype=torch.float64)
    layouts = dict(volume.readers)
    uses = {use.module: use for use in volume.uses if use.role is Role.READS}

    def add(name: str, x: Tensor) -> None:
        layout, use = layouts[name], uses[name]
        weight = _dense(model.get_submodule(name).get_parameter("weight").detach(), use)
        read = weight.movedim(use.dim, 0).flatten(1).double().square().sum(1)
        given = x.movedim(layout.axis, 0).flatten(1).double().square().mean(1)
        places = torch.tensor(layout.channels)
        ours = places >= 0
        found.index_add_(0, places[ours], (given * read).cpu()[ours])

    if isinstance(attention := model.get_submodule(volume.layer), nn.MultiheadAttention):
        # nn.MultiheadAttention does not call its last map as a module.
        with _replaced(model, volume.layer, SelfAttention(attention)):
            return importance_of(model, volume, sample)
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: add(name, given[0])
        )
        for name in layouts
    ]
    with removing(hooks), evaluating(model):
        model(sample)
    return found


def find_volume(model: nn.Module, layer: str, inputs: Tensor) -> Volume:
    """The volume of a layer's output, or of the heads of an attention.

    Raises:
        TransformError: as for `widen`, for reasons that do not depend on the number of channels.
    """
    module = dict(model.named_modules()).get(layer)
    if module is not None and is_attention(module):
        volume = heads_of(module, layer)
    else:
        volume = volume_of(site_of(model, layer, inputs), layer)
    _refuse_tied(model, volume, layer)
    return volume


def _refuse_tied(model: nn.Module, volume: Volume, layer: str) -> None:
    if also := _tied(model, [use.name for use in volume.uses]):
        raise TransformError(
            f"cannot transform {layer!r}: {', '.join(also)} share their weights, which cannot "
            "change for one of them alone; untie them first"
        )


def _tied(model: nn.Module, names: Iterable[str]) -> list[str]:
    """All names of those of the named tensors that have several names: tied weights."""
    found: dict[int, list[str]] = {}
    for of in (model.named_parameters, model.named_buffers):
        for name, tensor in of(remove_duplicate=False):
            found.setdefault(id(tensor), []).append(name)
    chosen = set(names)
    shared = [together for together in found.values() if len(together) > 1]
    return [name for together in shared if chosen & set(together) for name in together]


def _refuse_widths(volume: Volume, channels: int, method: Widening) -> None:
    new = channels - volume.width
    if new < 1:
        raise TransformError(
            f"{volume.layer!r} already has {volume.width} channels and cannot be widened to "
            f"{channels}; use `narrow` to remove channels"
        )
    each = volume.groups * (2 if method.widths == "even" else 1)
    if new % each and method.widths == "even" and volume.groups == 1:
        raise TransformError(
            f"{method.name} adds channels in equal pairs, but {channels} channels would add {new} "
            f"to the {volume.width} of {volume.layer!r}: use {channels + 1}"
        )
    if new % each:
        raise TransformError(_not_shared_out(volume, new, each))


def _not_shared_out(volume: Volume, count: int, each: int) -> str:
    return (
        f"{volume.layer!r} is read or written in {volume.groups} groups, which need equally many "
        f"channels: use a multiple of {each}, not {count}"
    )


@dataclass
class _Change:
    """New tensors of a model, which can be installed in any copy of it.

    Attributes:
        tensors: new tensors by module and name.
        places: old indices of each changed parameter along each dimension, for its lineage.
        attention: name and number of heads of a changed attention.
    """

    tensors: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    places: list[tuple[str, int, Tensor]] = field(default_factory=list)
    attention: tuple[str, int] | None = None

    def __call__(self, model: nn.Module) -> None:
        if self.attention is not None:
            name, _ = self.attention
            attention = model.get_submodule(name)
            if isinstance(attention, nn.MultiheadAttention):
                replace(model, name, SelfAttention(attention))
        for (module, tensor), value in self.tensors.items():
            holder = model.get_submodule(module)
            if tensor in holder._buffers:
                holder._buffers[tensor] = value.clone()
            else:
                grad = holder.get_parameter(tensor).requires_grad
                holder._parameters[tensor] = nn.Parameter(value.clone(), requires_grad=grad)
        for module in dict.fromkeys(module for module, _ in self.tensors):
            layers.resize(model.get_submodule(module))
        if self.attention is not None:
            name, heads = self.attention
            set_heads(model.get_submodule(name), heads)


def _remake(
    model: nn.Module,
    volume: Volume,
    channels: Channels,
    method: Widening | None,
    scale: float,
    noise: float,
    generator: torch.Generator,
) -> _Change:
    """All tensors of a volume, with its new channels."""
    change = _Change()
    if is_attention(model.get_submodule(volume.layer)):
        change.attention = (volume.layer, len(channels))
    for use in volume.uses:
        holder = model.get_submodule(use.module)
        given: Tensor = getattr(holder, use.tensor)
        deviation = float(given.detach().double().std(correction=0))
        axis = axis_of(use.channels, volume.width, channels, f"{use.name!r}")
        before = change.tensors.get((use.module, use.tensor), given)
        after = regrow(
            _dense(before, use), use, axis, method, deviation * scale, deviation * noise, generator
        )
        change.tensors[use.module, use.tensor] = _grouped(after, use)
        places = torch.where(axis.kept, axis.old, -1)
        if use.groups > 1:  # the weight has one group's channels, the same for all groups
            places = places[: len(places) // use.groups]
        change.places.append((use.name, use.dim, places))
    return change


def _dense(weight: Tensor, use: Use) -> Tensor:
    """A grouped weight (out, in / groups, …) as the equivalent dense one (out, in, …)."""
    if use.groups == 1:
        return weight
    blocks = weight.detach().chunk(use.groups)
    size = weight.shape[1]
    dense = weight.new_zeros(weight.shape[0], size * use.groups, *weight.shape[2:])
    for group, block in enumerate(blocks):
        rows = slice(group * len(block), (group + 1) * len(block))
        dense[rows, group * size : (group + 1) * size] = block
    return dense


def _grouped(dense: Tensor, use: Use) -> Tensor:
    """The inverse of `_dense`: the blocks on its diagonal."""
    if use.groups == 1:
        return dense
    size = dense.shape[1] // use.groups
    return torch.cat(
        [
            rows[:, group * size : (group + 1) * size]
            for group, rows in enumerate(dense.chunk(use.groups))
        ]
    )


@contextmanager
def _replaced(model: nn.Module, name: str, module: nn.Module) -> Iterator[None]:
    before = model.get_submodule(name)
    replace(model, name, module)
    try:
        yield
    finally:
        replace(model, name, before)


def _finish(
    model: nn.Module,
    change: _Change,
    inputs: Tensor,
    what: str,
    preserved: bool,
    in_place: bool,
    lineage: Lineage | None,
) -> nn.Module:
    student = make_student(model, change, inputs, what, preserved=preserved, in_place=in_place)
    if lineage is not None:
        for name, dim, places in change.places:
            lineage.resized(name, dim, places)
    return student
