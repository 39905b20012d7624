"""Cut a network into an ordered chain of parts: the guide, its boundaries and its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from nas_theseus.errors import CutError, GuideError
from nas_theseus.values import Boundary

_REBUILDING: ContextVar[bool] = ContextVar("rebuilding", default=False)


@contextmanager
def rebuilding() -> Iterator[None]:
    """While a found network is rebuilt, `cut` does not ask for the guide's own weights file."""
    token = _REBUILDING.set(True)
    try:
        yield
    finally:
        _REBUILDING.reset(token)


class Guide(nn.Module):
    """A network as a chain of parts, each fed by exactly one tensor.

    Args:
        parts: name and module of each part, input to output.
        inlet: shape of one input, without the batch dimension.

    Raises:
        CutError: a part does not take one tensor and give one tensor with the batch in front,
            or two runs in eval mode differ.
    """

    def __init__(self, parts: Sequence[tuple[str, nn.Module]], inlet: Boundary) -> None:
        super().__init__()
        if not parts:
            raise CutError("a guide needs at least one part")
        names = [name for name, _ in parts]
        if len(set(names)) != len(names):
            raise CutError(f"a guide's part names must differ, got {', '.join(names)}")
        self.names = tuple(names)
        self.parts = nn.ModuleList(module for _, module in parts)
        self.boundaries = self._measure_boundaries(inlet)

    def _measure_boundaries(self, inlet: Boundary) -> tuple[Boundary, ...]:
        training = self.training
        self.eval()
        features = example_input(self, inlet, batch=2)
        boundaries = [inlet]
        with torch.no_grad():
            for name, part in zip(self.names, self.parts, strict=True):
                before = features
                features = part(before)
                if not isinstance(features, Tensor) or features.shape[:1] != before.shape[:1]:
                    raise CutError(
                        f"part {name!r} must give one tensor with the batch in front; it gave "
                        f"{_describe(features)} for an input of shape {tuple(before.shape)}"
                    )
                if not torch.equal(features, part(before)):
                    raise CutError(
                        f"part {name!r} gives different outputs for the same input in eval mode; "
                        "a guide must be deterministic there (is something random outside Dropout?)"
                    )
                shape = tuple(features.shape[1:])
                if not 1 <= len(shape) <= 3:
                    raise CutError(
                        f"the boundary behind part {name!r} has shape {shape}; a boundary is "
                        "(C,H,W), (T,D) or (D,): cut elsewhere"
                    )
                boundaries.append(Boundary(shape, integer=not features.is_floating_point()))
        self.train(training)
        return tuple(boundaries)

    def __len__(self) -> int:
        return len(self.parts)

    def forward(self, inputs: Tensor) -> Tensor:
        features = inputs
        for part in self.parts:
            features = part(features)
        return features

    def features(self, inputs: Tensor, at: Collection[int]) -> dict[int, Tensor]:
        """Activations at the boundaries `at` (0 is the input), each of shape (N, *boundary)."""
        found = {0: inputs} if 0 in at else {}
        features = inputs
        for index, part in enumerate(self.parts[: max(at, default=0)], start=1):
            features = part(features)
            if index in at:
                found[index] = features
        return found

    def content_hash(self) -> str:
        """SHA-256 (16 digits) of part names, parameter names, shapes and bytes of all weights."""
        digest = hashlib.sha256("|".join(self.names).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(
                tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
            )
        return digest.hexdigest()[:16]


def device_of(module: nn.Module) -> torch.device:
    """Where the module's first parameter or buffer lies; the CPU when it has none."""
    return next((tensor.device for tensor in _state(module)), torch.device("cpu"))


def example_input(module: nn.Module, inlet: Boundary, batch: int = 1) -> Tensor:
    """An input of shape (batch, *inlet.shape) on the module's device, always the same values.

    Token ids are zeros; other inlets are standard normal in the module's own floating dtype. The
    global random state is not touched.

    Raises:
        ValueError: batch < 1.
    """
    if batch < 1:
        raise ValueError(f"a batch holds at least one example, not {batch}")
    shape = (batch, *inlet.shape)
    device = device_of(module)
    if inlet.integer:
        return torch.zeros(shape, dtype=torch.long, device=device)
    floating = (tensor.dtype for tensor in _state(module) if tensor.is_floating_point())
    dtype = next(floating, torch.get_default_dtype())
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(device=device, dtype=dtype)


def _state(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def cut(
    model: nn.Module,
    at: Sequence[str],
    inlet: Sequence[int],
    *,
    weights: str | Path | None = None,
) -> Guide:
    """Split a torch module into a chain of parts, after each named submodule or operation.

    The model is traced with torch.fx in eval mode (fx keeps the mode in which it traces). Its
    parts share its parameters; nothing is copied.

    Args:
        model: any module that torch.fx traces; others are given as `Guide([(name, module), …])`.
        at: names to cut after, as `cut_points` (or ``nas-theseus parts``) lists them, in order.
        inlet: shape of one input without the batch dimension, such as (3, 224, 224).
        weights: safetensors file, or a checkpoint that ``torch.load(weights_only=True)`` reads,
            with the state dict of `model`.

    Raises:
        CutError: the model does not trace, a name is unknown, the names are out of order, or more
            than one tensor crosses a cut; the message names what else crosses.
        GuideError: the weights file is missing, damaged or of another network.
    """
    if weights is not None and not _REBUILDING.get():
        load_weights(model, weights)
    traced = _trace(model)
    cuts = [(name, _node_of(traced, name)) for name in at]
    inside: set[torch.fx.Node] = set()
    previous: torch.fx.Node | None = None
    parts: list[tuple[str, nn.Module]] = []
    output = next(node for node in traced.graph.nodes if node.op == "output")
    for name, node in [*cuts, ("head", output)]:
        ancestors = _ancestors(node)
        if previous is not None and previous not in ancestors:
            raise CutError(
                f"cannot cut after {name!r} here: it does not come behind {parts[-1][0]!r}; "
                "give the names in the order in which the network runs them"
            )
        if node is not output:
            crossing = _crossing(traced, ancestors, node)
            if crossing:
                raise CutError(
                    f"cannot cut after {name!r}: exactly one tensor may cross a cut, but "
                    f"{', '.join(repr(other) for other in crossing)} also cross it; "
                    "'nas-theseus parts' lists where this model can be cut"
                )
        parts.append((name, _part(traced, ancestors - inside, previous, node)))
        inside, previous = ancestors, node
    _refuse_shared_buffers(parts)
    return Guide(parts, Boundary(tuple(inlet)))


@dataclass(frozen=True)
class CutPoint:
    """A place where exactly one tensor crosses: the name to give to `cut`."""

    name: str
    also: tuple[str, ...] = ()


def cut_points(model: nn.Module) -> list[CutPoint]:
    """Every place where a model can be cut, in the order in which it runs.

    Raises:
        CutError: torch.fx cannot trace the model.
    """
    traced = _trace(model)
    last_of: dict[str, torch.fx.Node] = {}
    for node in traced.graph.nodes:
        for name in _names_of(node):
            last_of[name] = node
    by_node: dict[torch.fx.Node, list[str]] = {}
    for name, node in last_of.items():
        by_node.setdefault(node, []).append(name)
    output = next(node for node in traced.graph.nodes if node.op == "output")
    results = [node for node in output.all_input_nodes]
    points = []
    for node in traced.graph.nodes:
        if node not in by_node or node in results or node not in _ancestors(output):
            continue
        if not _crossing(traced, _ancestors(node), node):
            names = sorted(by_node[node], key=lambda name: (name.count("."), len(name)))
            points.append(CutPoint(names[0], tuple(names[1:])))
    return points


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict into a model, from safetensors or a weights-only checkpoint.

    Raises:
        GuideError: the file is missing or damaged, or its names and shapes are of another model.
    """
    model_state = read_weights(path)
    expected = model.state_dict()
    wrong = [
        f"{name}: file {tuple(tensor.shape)}, model {tuple(expected[name].shape)}"
        for name, tensor in model_state.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    missing = sorted(set(expected) - set(model_state))
    unknown = sorted(set(model_state) - set(expected))
    if wrong or missing or unknown:
        said = [*wrong[:3], *(f"{name}: not in the file" for name in missing[:3])]
        said += [f"{name}: not in the model" for name in unknown[:3]]
        count = len(wrong) + len(missing) + len(unknown)
        raise GuideError(
            f"weights {path} do not fit {type(model).__name__}: {count} differences, first: "
            + "; ".join(said)
        )
    model.load_state_dict(dict(model_state))


def read_weights(path: str | Path) -> Mapping[str, Tensor]:
    """A state dict from a safetensors file or a weights-only checkpoint; never unpickles code.

    Raises:
        GuideError: the file is missing, damaged, or holds more than tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise GuideError(f"weights file {file} does not exist; give the path of a state dict")
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, safetensors.SafetensorError) as error:
        raise GuideError(_damaged(file, error)) from error
    except Exception as error:  # weights_only raises pickle.UnpicklingError and its like
        raise GuideError(_damaged(file, error)) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise GuideError(f"{file} holds no state dict (names to tensors); save model.state_dict()")
    return state


def _damaged(file: Path, error: Exception) -> str:
    return (
        f"weights file {file} is damaged or not safetensors / a weights-only checkpoint: "
        f"{str(error).splitlines()[0]}. Delete it (a guide trained here is then trained again) or "
        "save it anew with safetensors"
    )


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """A state dict whose tensors are contiguous CPU copies, as safetensors wants them.

    Tied weights are written once a name, so that loading needs no knowledge of the tie.
    """
    return {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in module.state_dict().items()
    }


def _trace(model: nn.Module) -> torch.fx.GraphModule:
    training = model.training
    model.eval()
    try:
        return torch.fx.symbolic_trace(model)
    except Exception as error:  # fx lets through whatever the model's forward raises on proxies
        raise CutError(
            f"torch.fx cannot trace {type(model).__name__}: {str(error).splitlines()[0]}. "
            "Give its parts as a chain: Guide([(name, module), …], inlet)"
        ) from error
    finally:
        model.train(training)


def _names_of(node: torch.fx.Node) -> list[str]:
    """Names a node can be called by: its enclosing submodules, and its own for operations."""
    if node.op in ("placeholder", "output", "get_attr"):
        return []
    stack = node.meta.get("nn_module_stack") or {}
    names = [path for path, _ in stack.values() if path] if stack else []
    own = str(node.target) if node.op == "call_module" else node.name
    return list(dict.fromkeys([*names, own]))


def _node_of(traced: torch.fx.GraphModule, name: str) -> torch.fx.Node:
    found: torch.fx.Node | None = None
    for node in traced.graph.nodes:
        if name in _names_of(node):
            found = node
    if found is None:
        known = sorted({n for node in traced.graph.nodes for n in _names_of(node)})
        raise CutError(
            f"cannot cut after {name!r}: no submodule or operation has this name; known: "
            + ", ".join(known[:40])
            + (", …" if len(known) > 40 else "")
        )
    return found


def _ancestors(node: torch.fx.Node) -> set[torch.fx.Node]:
    found = {node}
    waiting = [node]
    while waiting:
        for before in waiting.pop().all_input_nodes:
            if before not in found:
                found.add(before)
                waiting.append(before)
    return found


def _crossing(
    traced: torch.fx.GraphModule, inside: set[torch.fx.Node], cut_node: torch.fx.Node
) -> list[str]:
    """What crosses a cut beside the cut's own tensor; parameters may be read on both sides."""
    output = next(node for node in traced.graph.nodes if node.op == "output")
    needed = _ancestors(output)
    return [
        str(node.target) if node.op == "call_module" else node.name
        for node in traced.graph.nodes
        if node in inside
        and node is not cut_node
        and node.op != "get_attr"
        and any(user not in inside and user in needed for user in node.users)
    ]


def _part(
    traced: torch.fx.GraphModule,
    nodes: set[torch.fx.Node],
    previous: torch.fx.Node | None,
    last: torch.fx.Node,
) -> torch.fx.GraphModule:
    """The module that runs `nodes`, fed by the tensor of `previous`, giving that of `last`."""
    graph = torch.fx.Graph()
    copies: dict[torch.fx.Node, torch.fx.Node] = {}
    if previous is not None:
        copies[previous] = graph.placeholder("features")

    def copy_of(node: torch.fx.Node) -> torch.fx.Node:
        if node not in copies:  # a parameter that an earlier part reads too
            copies[node] = graph.node_copy(node, copy_of)
        return copies[node]

    for node in traced.graph.nodes:
        if node in nodes and node.op != "output" and node not in copies:
            copies[node] = graph.node_copy(node, copy_of)
    result = last.args[0] if last.op == "output" else last
    if not isinstance(result, torch.fx.Node):
        raise CutError(f"the network must give one tensor; it gives {result!r}")
    graph.output(copy_of(result))
    part = torch.fx.GraphModule(traced, graph)
    part.train(traced.training)
    return part


def _refuse_shared_buffers(parts: Sequence[tuple[str, nn.Module]]) -> None:
    """A module with state that is updated (batch norm) must not run in two parts."""
    owner: dict[int, str] = {}
    for name, part in parts:
        for buffer in part.buffers():
            if owner.setdefault(id(buffer), name) != name:
                raise CutError(
                    f"parts {owner[id(buffer)]!r} and {name!r} share a module with running "
                    "statistics; cut so that both uses lie in one part"
                )


def _describe(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
