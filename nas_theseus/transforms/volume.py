"""Follow a hidden volume through a traced network: find the layers that write, read and norm it."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from enum import Enum
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from nas_theseus.errors import TransformError
from nas_theseus.guide.tracing import label
from nas_theseus.transforms import layers
from nas_theseus.transforms.sites import Site

_UNKNOWN = -2


class Role(Enum):
    """The role of a tensor's dimension for the channels of a volume."""

    WRITES = "writes"
    READS = "reads"
    EACH = "each"


@dataclass(frozen=True)
class Use:
    """One dimension of one tensor that has the channels of a volume.

    Attributes:
        module: full name of the tensor's module in the network.
        tensor: name of the parameter or buffer in that module.
        channels: the channel at each index along `dim`; −1 if it does not belong to the volume.
        groups: groups of a grouped convolution that reads the volume; its weight has the channels
            of one group only, `channels` those of all groups.
        statistic: whether it is a norm's statistic, which has a value but no direction.
    """

    module: str
    tensor: str
    dim: int
    role: Role
    channels: tuple[int, ...]
    groups: int = 1
    statistic: bool = False

    @property
    def name(self) -> str:
        return f"{self.module}.{self.tensor}" if self.module else self.tensor


@dataclass(frozen=True)
class Layout:
    """The axis of a tensor with the channels of a volume, and the channel at each index."""

    axis: int
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Volume:
    """A hidden volume x with all tensors that write, normalise and read its channels.

    Attributes:
        width: number of channels C.
        groups: number of equal groups of channels that grouped convolutions distinguish.
        joined: an addition of the outputs of several layers (a residual connection), if any.
        readers: names of the layers that read it, with the axis of its channels in their input.
    """

    layer: str
    width: int
    uses: tuple[Use, ...]
    groups: int = 1
    joined: str | None = None
    readers: tuple[tuple[str, Layout], ...] = ()


def volume_of(site: Site, layer: str) -> Volume:
    """The output volume of a convolution or linear layer, followed through the graph.

    Raises:
        TransformError: the layer is of another kind, or its output reaches the input, the output,
            or an operation that mixes channels or is not known to keep them separate.
    """
    node = site.node
    module = site.module(node) if node.op == "call_module" else None
    found = layers.linear_map(module) if module is not None else None
    if module is None or found is None:
        what = type(module).__name__ if module is not None else "no single layer"
        raise TransformError(
            f"{layer!r} is {what}; name a convolution or a linear layer, or an attention of "
            "nn.MultiheadAttention, timm or Hugging Face's GPT-2"
        )
    # A depthwise convolution filters the channels of the layer before it, so start there.
    start = node.all_input_nodes[0] if layers.is_depthwise(module) else node
    return follow(site, start, len(site.shapes[start]) - 1 - found.positions, layer)


def follow(site: Site, start: Node, axis: int, layer: str) -> Volume:
    """The volume whose channels are on an axis of a node's output.

    Raises:
        TransformError: as for `volume_of`.
    """
    width = site.shapes[start][axis]
    follower = _Follower(site, layer)
    follower.put(start, Layout(axis, tuple(range(width))))
    follower.run()
    return Volume(
        layer,
        width,
        tuple(follower.uses),
        follower.groups,
        follower.joined(),
        tuple(follower.readers.items()),
    )


@dataclass(frozen=True)
class OpenVolume:
    """A volume that reaches the input or the output of a module.

    Attributes:
        volume: its tensors; its `layer` is "", the module itself.
        inlet, outlet: where the module's input and output have its channels; None if not at all.
    """

    volume: Volume
    inlet: Layout | None
    outlet: Layout | None


def follow_open(site: Site, start: Node, axis: int, what: str) -> OpenVolume:
    """As `follow`, for a volume that may reach the input and the output, and pass layer norms.

    Layer norms over its channels are narrowed like other layers, although their statistics are then
    of fewer channels.

    Args:
        what: the volume's name in messages.

    Raises:
        TransformError: as for `volume_of`, but for the input, the output and layer norms.
    """
    follower = _Follower(site, what, open_ends=True)
    width = site.shapes[start][axis]
    follower.put(start, Layout(axis, tuple(range(width))))
    follower.run()
    readers = tuple(follower.readers.items())
    volume = Volume("", width, tuple(follower.uses), follower.groups, None, readers)
    return OpenVolume(volume, follower.ends.get("placeholder"), follower.ends.get("output"))


class _Follower:
    def __init__(self, site: Site, layer: str, *, open_ends: bool = False) -> None:
        self.site, self.layer, self.open_ends = site, layer, open_ends
        self.ends: dict[str, Layout] = {}
        self.layouts: dict[Node, Layout] = {}
        self.uses: dict[Use, None] = {}
        self.readers: dict[str, Layout] = {}
        self.groups = 1
        self._waiting: list[Node] = []

    def run(self) -> None:
        while self._waiting:
            node = self._waiting.pop()
            for neighbour in (node, *node.users):
                self._relate(neighbour)

    def put(self, node: Node, layout: Layout) -> None:
        before = self.layouts.get(node)
        if before == layout:
            return
        if before is not None:
            merged = tuple(map(max, before.channels, layout.channels))
            consistent = all(
                given in (-1, new)
                for old in (before, layout)
                for given, new in zip(old.channels, merged, strict=True)
            )
            if before.axis != layout.axis or not consistent:
                raise self._refusal(node, "joins channels of the volume in different orders")
            layout = Layout(layout.axis, merged)
            if layout == before:
                return
        self.layouts[node] = layout
        self._waiting.append(node)

    def joined(self) -> str | None:
        """Name of an addition of the outputs of different layers; None if there is none."""
        for node in self.layouts:
            if node.op in ("call_function", "call_method") and (
                layers.function_name(node) in layers.ADDITIONS
            ):
                given = [n for n in node.all_input_nodes if n in self.layouts]
                makers = [self._makers(n) for n in given]
                if any(found != makers[0] for found in makers):
                    return label(node)
        return None

    def _makers(self, node: Node) -> set[Node]:
        """The layers that write a node's output; empty if it does not belong to the volume."""
        if node not in self.layouts:
            return set()
        before = [given for given in node.all_input_nodes if given in self.layouts]
        reads = node.op == "call_module" and (
            layers.linear_map(module := self.site.module(node)) is not None
            and not layers.is_depthwise(module)
        )
        if reads or not before:
            return {node}
        return {maker for given in before for maker in self._makers(given)}

    def _relate(self, node: Node) -> None:
        """Carry layouts across one operation, in both directions."""
        near = [given for given in (node, *node.all_input_nodes) if given in self.layouts]
        if self.open_ends and node.op in ("output", "placeholder"):
            if near:
                self.ends[node.op] = self.layouts[near[0]]
            return
        if node.op == "output":
            raise self._refusal(node, "is the module's output, whose width is fixed by its readers")
        if node.op == "placeholder":
            raise self._refusal(node, "is the module's input, which no layer here writes")
        if self.site.gives_tensors(node):
            if node.op != "call_module" and layers.function_name(node) in layers.SPLITS:
                for user in node.users:
                    self._move(user)
                return
            raise self._refusal(
                node, "mixes the volume's channels, or is not known to keep them separate"
            )
        if node not in self.site.shapes or not near:
            return  # a shape or another number
        if node.op == "get_attr":
            holder, _, tensor = (self.site.prefix + str(node.target)).rpartition(".")
            layout = self.layouts[node]
            self._use(holder, tensor, layout.axis, Role.EACH, layout.channels, statistic=True)
        elif node.op == "call_module":
            self._relate_module(node, self.site.module(node))
        else:
            self._relate_operation(node, layers.function_name(node))

    def _relate_module(self, node: Node, module: nn.Module) -> None:
        names = layers.names_of_class(module)
        if layers.linear_map(module) is not None:
            self._linear_map(node, module)
        elif layers.is_batch_norm(module):
            self._elementwise(node)
            self._per_channel(node, 1, "weight", "bias", "running_mean", "running_var")
        elif "PReLU" in names:
            self._elementwise(node)
            if module.num_parameters != 1:
                self._per_channel(node, 1, "weight")
        elif names & {"LayerNorm", "RMSNorm"}:
            layout = self._elementwise(node)
            normed = layers.normed_dimensions(module, len(self.site.shapes[node]))
            if layout.axis not in normed:
                return
            if not self.open_ends or len(normed) > 1:
                raise self._refusal(node, f"is a {type(module).__name__}, which mixes channels")
            self._per_channel(node, layout.axis, "weight", "bias")
        elif names & layers.ELEMENTWISE_MODULES:
            self._elementwise(node)
        else:
            self._relate_operation(node, type(module).__name__)

    def _relate_operation(self, node: Node, name: str) -> None:
        positions = layers.spatial_dimensions(name, len(self.site.shapes[node]))
        if name == "pad":
            positions = len(node.args[1] if len(node.args) > 1 else node.kwargs["pad"]) // 2  # type: ignore[arg-type]
        if name in layers.ELEMENTWISE_FUNCTIONS:
            self._elementwise(node)
        elif name in layers.MOVES:
            self._move(node)
        elif name in layers.REDUCTIONS:
            self._reduce(node)
        elif positions is not None:
            layout = self._elementwise(node)
            if layout.axis >= len(self.site.shapes[node]) - positions:
                raise self._refusal(node, f"({name}) works along the axis of the volume's channels")
        else:
            raise self._refusal(
                node, f"({name}) mixes the volume's channels, or is not known to keep them separate"
            )

    def _linear_map(self, node: Node, module: nn.Module) -> None:
        found = layers.linear_map(module)
        assert found is not None
        source, name = node.all_input_nodes[0], self.site.prefix + str(node.target)
        axis = len(self.site.shapes[node]) - 1 - found.positions
        for given, other in ((source, node), (node, source)):
            layout = self.layouts.get(given)
            if layout is None:
                continue
            if layout.axis != axis:
                if found.positions:
                    raise self._refusal(node, "mixes positions that hold the volume's channels")
                self.put(other, layout)  # the same map for every channel
            elif layers.is_depthwise(module):
                self._depthwise(node, source, module, axis)
            elif given is source:
                grouped = self._grouped(node, module, layout)
                self._use(name, "weight", found.reads, Role.READS, layout.channels, groups=grouped)
                self.readers[name] = layout
            else:
                self._grouped(node, module, layout)
                self._use(name, "weight", found.writes, Role.WRITES, layout.channels)
                self._use(name, "bias", 0, Role.WRITES, layout.channels)

    def _grouped(self, node: Node, module: nn.Module, layout: Layout) -> int:
        """Number of groups; new channels are possible if each group gets equally many."""
        count = layers.groups(module)
        if count > 1:
            if layout.channels != tuple(range(len(layout.channels))) or "Transpose" in (
                type(module).__name__
            ):
                raise self._refusal(
                    node, f"has {count} groups, which have only a part of the volume"
                )
            self.groups = lcm(self.groups, count)
        return count

    def _depthwise(self, node: Node, source: Node, module: nn.Module, axis: int) -> None:
        filters = module.out_channels // module.in_channels  # type: ignore[operator]
        if source in self.layouts:
            read = self.layouts[source].channels
            self.put(node, Layout(axis, tuple(c for c in read for _ in range(filters))))
        written = self.layouts[node].channels
        self.put(source, Layout(axis, written[::filters]))
        self._use(self.site.prefix + str(node.target), "weight", 0, Role.EACH, written)
        self._use(self.site.prefix + str(node.target), "bias", 0, Role.EACH, written)

    def _per_channel(self, node: Node, axis: int, *tensors: str) -> None:
        layout = self.layouts[node]
        if layout.axis != axis:
            raise self._refusal(node, "has parameters along an axis other than the channels")
        for tensor in tensors:
            name = self.site.prefix + str(node.target)
            self._use(name, tensor, 0, Role.EACH, layout.channels, statistic=True)

    def _use(
        self,
        module: str,
        tensor: str,
        dim: int,
        role: Role,
        channels: tuple[int, ...],
        groups: int = 1,
        statistic: bool = False,
    ) -> None:
        local = module.removeprefix(self.site.prefix)
        holder = self.site.trace.module.get_submodule(local) if local else self.site.trace.module
        if getattr(holder, tensor, None) is None:
            return
        if tensor not in holder._parameters and tensor not in holder._buffers:
            raise TransformError(
                f"cannot transform {self.layer!r}: {tensor} of {module!r} is computed from other "
                "parameters (weight or spectral norm); remove the parametrization first"
            )
        if self.site.runs.get(local, 1) > 1:
            raise TransformError(
                f"cannot transform {self.layer!r}: {module!r} runs {self.site.runs[local]} times, "
                "so its weights would have to fit both volumes"
            )
        # An earlier use of the same dimension covered only a part of the volume.
        for use in [
            u
            for u in self.uses
            if (u.name, u.dim, u.role) == (f"{module}.{tensor}" if module else tensor, dim, role)
        ]:
            del self.uses[use]
        self.uses[Use(module, tensor, dim, role, channels, groups, statistic)] = None

    def _elementwise(self, node: Node) -> Layout:
        """Layout of an element-wise operation: the same axis, counted from the last, everywhere."""
        near = [n for n in (node, *node.all_input_nodes) if n in self.site.shapes]
        for known in [n for n in near if n in self.layouts]:
            layout = self.layouts[known]
            place = layout.axis - len(self.site.shapes[known])
            for other in near:
                shape = self.site.shapes[other]
                if len(shape) + place < 0:
                    continue
                if shape[place] == len(layout.channels):
                    self.put(other, Layout(len(shape) + place, layout.channels))
                elif other is node:
                    raise self._refusal(node, "spreads one channel of the volume over many")
        return self.layouts[node]

    def _reduce(self, node: Node) -> None:
        """Follow a mean or sum over axes other than the volume's."""
        source = node.all_input_nodes[0]
        rank = len(self.site.shapes[source])
        given = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        dims: Any = range(rank) if given is None else given
        gone = {dim % rank for dim in ([dims] if isinstance(dims, int) else dims)}
        keeps = len(self.site.shapes[node]) == rank
        left = [axis for axis in range(rank) if keeps or axis not in gone]
        for known, other in ((source, node), (node, source)):
            if known in self.layouts:
                layout = self.layouts[known]
                axis = layout.axis if known is source else left[layout.axis]
                if axis in gone:
                    raise self._refusal(node, "sums over the volume's channels")
                self.put(
                    other, Layout(left.index(axis) if other is node else axis, layout.channels)
                )

    def _move(self, node: Node) -> None:
        """Follow each value through a view, permutation, split or concatenation.

        The operation is run on channel numbers instead of values.
        """
        moved: Any = node
        sources = node.all_input_nodes
        if node.target is operator.getitem and sources and sources[0] not in self.site.shapes:
            moved, sources = sources[0], sources[0].all_input_nodes  # one output of a split
            if moved.op == "call_module" or layers.function_name(moved) not in layers.SPLITS:
                raise self._refusal(
                    moved, "mixes the volume's channels, or is not known to keep them separate"
                )
        sources = [source for source in sources if source in self.site.shapes]
        counts = [self.site.shapes[source].numel() for source in sources]
        starts = [sum(counts[:index]) for index in range(len(counts))]
        places = {
            source: torch.arange(start, start + count).view(self.site.shapes[source])
            for source, start, count in zip(sources, starts, counts, strict=True)
        }
        out = self.site.call(moved, places)
        out = self.site.call(node, {moved: out}) if moved is not node else out
        channels = torch.full((sum(counts),), _UNKNOWN)
        for source, start, count in zip(sources, starts, counts, strict=True):
            channels[start : start + count] = self._spread(source).flatten()
        if any(source in self.layouts for source in sources):
            self._set_from(node, channels[out])
        if node in self.layouts:
            channels[out.flatten()] = self._spread(node).flatten()
            for source, start, count in zip(sources, starts, counts, strict=True):
                found = channels[start : start + count].view(self.site.shapes[source])
                if (found >= 0).any():
                    self._set_from(source, found)

    def _spread(self, node: Node) -> Tensor:
        """The channel number at every element of a tensor."""
        shape = self.site.shapes[node]
        if node not in self.layouts:
            return torch.full(shape, _UNKNOWN)
        layout = self.layouts[node]
        along = [-1 if axis == layout.axis else 1 for axis in range(len(shape))]
        return torch.tensor(layout.channels).view(along).expand(shape)

    def _set_from(self, node: Node, channels: Tensor) -> None:
        for axis in range(1, channels.ndim):
            rows = channels.movedim(axis, 0).flatten(1)
            found = rows.amax(1)
            if ((rows == found[:, None]) | (rows == _UNKNOWN)).all():
                self.put(node, Layout(axis, tuple(found.clamp(min=-1).tolist())))
                return
        raise self._refusal(node, "spreads the volume's channels over several axes")

    def _refusal(self, node: Node, why: str) -> TransformError:
        name = self.site.prefix + label(node) if node.op == "call_module" else label(node)
        return TransformError(f"cannot transform {self.layer!r}: {name!r} {why}")
