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
from nas_theseus.guide.tracing import Trace, ancestors, evaluating, is_batch_size, trace
from nas_theseus.values.architecture import Boundary

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
        inlet: shape of one input without the batch dimension; a task's own (`task.inlet`) also
            says whether it is token ids.

    Raises:
        CutError: a part does not take one tensor and give one tensor with the batch in front,
            or two runs in eval mode differ.
    """

    def __init__(
        self, parts: Sequence[tuple[str, nn.Module]], inlet: Boundary | Sequence[int]
    ) -> None:
        super().__init__()
        if not parts:
            raise CutError("a guide needs at least one part")
        names = [name for name, _ in parts]
        if len(set(names)) != len(names):
            raise CutError(f"a guide's part names must differ, got {', '.join(names)}")
        self.names = tuple(names)
        self.parts = nn.ModuleList(module for _, module in parts)
        self.boundaries = self._measure_boundaries(_inlet(inlet))

    def _measure_boundaries(self, inlet: Boundary) -> tuple[Boundary, ...]:
        features = example_input(self, inlet, batch=2)
        boundaries = [inlet]
        with evaluating(self):
            for name, part in zip(self.names, self.parts, strict=True):
                before, given = features, features.clone()
                try:
                    features = part(given)
                except Exception as error:  # the user's module may raise anything
                    raise _does_not_run(f"part {name!r}", before, inlet, error) from error
                if given._version:
                    _copy_input(name, part)
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


def _inlet(given: Boundary | Sequence[int]) -> Boundary:
    if isinstance(given, Boundary):
        return given
    sizes = tuple(given) if isinstance(given, Sequence) else ()
    if not 1 <= len(sizes) <= 3 or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise CutError(
            "an inlet is the shape of one input without the batch dimension, such as "
            f"(3, 224, 224), not {given!r}"
        )
    return Boundary(sizes)


def _does_not_run(what: str, features: Tensor, inlet: Boundary, error: Exception) -> CutError:
    ids = " For token ids give the task's own, task.inlet." if inlet.kind == "vector" else ""
    said = str(error).strip().partition("\n")[0]
    return CutError(
        f"{what} cannot be run on an input of shape {tuple(features.shape)}: "
        f"{type(error).__name__}: {said}. The guide's inlet is {inlet}: does the network take "
        f"it?{ids}"
    )


def device_of(module: nn.Module) -> torch.device:
    """Where the module's first parameter or buffer lies; the CPU when it has none."""
    return next((tensor.device for tensor in _state(module)), torch.device("cpu"))


def example_input(module: nn.Module, inlet: Boundary, batch: int = 1, seed: int = 0) -> Tensor:
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
    generator = torch.Generator().manual_seed(seed)
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

    The model is traced with torch.fx in eval mode; submodules that do not trace, or that depend
    on `training` themselves, run whole. The parts share the model's parameters, nothing is
    copied, and the chain is held to the model's own output.

    Args:
        model: any module whose `forward` torch.fx traces and whose first argument is the input;
            others are given as `Guide([(name, module), …])`.
        at: names to cut after, as `cut_points` (or ``nas-theseus parts``) lists them, in order.
        inlet: shape of one input without the batch dimension, such as (3, 224, 224).
        weights: safetensors file, or a checkpoint that ``torch.load(weights_only=True)`` reads,
            with the state dict of `model`.

    Raises:
        CutError: the model does not trace or does not take the inlet, a name is unknown, the names
            are out of order, or more than one tensor crosses a cut; the message names what else
            crosses.
        GuideError: the weights file is missing, damaged or of another network.
    """
    if isinstance(at, str):
        raise CutError(f"at: a list of names to cut after, such as [{at!r}], not {at!r}")
    boundary = _inlet(inlet)
    load_given_weights(model, weights)
    traced = trace(model)
    cuts = [(name, _node_of(traced, name)) for name in at]
    previous, inside = traced.inputs, {traced.inputs}
    parts: list[tuple[str, nn.Module]] = []
    for name, node in [*cuts, ("head", traced.output)]:
        before = ancestors(node)
        if previous not in before:
            behind = repr(parts[-1][0]) if parts else "the network's input"
            raise CutError(
                f"cannot cut after {name!r} here: it does not come behind {behind}; "
                "give the names in the order in which the network runs them"
            )
        if node is not traced.output and (crossing := traced.crossing(before, node)):
            raise CutError(
                f"cannot cut after {name!r}: exactly one tensor may cross a cut, but "
                f"{', '.join(map(repr, crossing))} also cross it; "
                "'nas-theseus parts' lists where this model can be cut"
            )
        parts.append((name, _part(traced, before - inside, previous, node)))
        inside, previous = before, node
    _refuse_shared_buffers(parts)
    guide = Guide(parts, boundary)
    refuse_other_outputs(guide, model, example_input(model, guide.boundaries[0], batch=2, seed=1))
    return guide


def refuse_other_outputs(guide: Guide, model: nn.Module, inputs: Tensor) -> None:
    """Hold a chain to what its model computes; both in eval mode.

    Raises:
        CutError: the outputs differ by more than rounding.
    """
    with evaluating(guide, model):
        expected = model(inputs)
        expected = getattr(expected, "logits", expected)  # Hugging Face's outputs
        difference = (guide(inputs) - expected).abs().max()
    if not difference <= 1e-4 * expected.abs().max():
        raise CutError(
            f"the chain of {', '.join(guide.names)} does not compute what {type(model).__name__} "
            f"computes: outputs differ by up to {float(difference):.2g}. A trace holds neither "
            "random numbers nor what a forward keeps between calls; give the parts as a chain: "
            "Guide([(name, module), …], inlet)"
        )


@dataclass(frozen=True)
class CutPoint:
    """A place where exactly one tensor crosses: the name to give to `cut`."""

    name: str
    also: tuple[str, ...] = ()


def cut_points(model: nn.Module, inlet: Sequence[int] | None = None) -> list[CutPoint]:
    """Every place where a model can be cut, in the order in which it runs.

    Args:
        inlet: shape of one input; with it, places are left out whose tensor is no boundary, such
            as the windows of a Swin transformer.

    Raises:
        CutError: torch.fx cannot trace the model, or it does not take the inlet.
    """
    traced = trace(model)
    by_node: dict[torch.fx.Node, list[str]] = {}
    for name, node in traced.last_of.items():
        by_node.setdefault(node, []).append(name)
    if inlet is not None:
        inputs = example_input(model, boundary := _inlet(inlet), batch=2)
        try:
            shapes = traced.shapes(inputs)
        except Exception as error:  # the user's module may raise anything
            raise _does_not_run(type(model).__name__, inputs, boundary, error) from error
        for node in list(by_node):
            shape = shapes.get(node, ())
            if shape[:1] != (2,) or not 2 <= len(shape) <= 4:
                del by_node[node]
    points = []
    for node in traced.nodes:
        if node not in by_node or node in traced.output.all_input_nodes:
            continue
        before = ancestors(node)
        if traced.inputs in before and not traced.crossing(before, node):
            # Submodules before operations, and the outermost first: "blocks.0", not "add_2".
            operation = node.name if node.op != "call_module" else None
            names = sorted(by_node[node], key=lambda name: (name == operation, name.count(".")))
            points.append(CutPoint(names[0], tuple(names[1:])))
    return points


def load_given_weights(model: nn.Module, weights: str | Path | None) -> None:
    """Load a guide's own weights, if any are given and no found network is being rebuilt."""
    if weights is not None and not _REBUILDING.get():
        load_weights(model, weights)


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
    # Of tied weights a file may hold one name only, as Hugging Face's do.
    given = {expected[name].data_ptr() for name in model_state if name in expected}
    missing = sorted(
        name
        for name, tensor in expected.items()
        if name not in model_state and tensor.data_ptr() not in given
    )
    unknown = sorted(set(model_state) - set(expected))
    if wrong or missing or unknown:
        said = [*wrong[:3], *(f"{name}: not in the file" for name in missing[:3])]
        said += [f"{name}: not in the model" for name in unknown[:3]]
        count = len(wrong) + len(missing) + len(unknown)
        raise GuideError(
            f"weights {path} do not fit {type(model).__name__}: {count} differences, first: "
            + "; ".join(said)
        )
    model.load_state_dict(dict(model_state), strict=False)


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


def _node_of(traced: Trace, name: str) -> torch.fx.Node:
    if name in traced.last_of:
        return traced.last_of[name]
    if whole := traced.whole(name):
        raise CutError(
            f"cannot cut after {name!r}: {whole!r} runs whole, because it depends on `training` "
            f"or does not trace; cut after {whole!r}, or give the parts as a chain: "
            "Guide([(name, module), …], inlet)"
        )
    known = sorted(traced.last_of)
    raise CutError(
        f"cannot cut after {name!r}: no submodule or operation has this name; known: "
        + ", ".join(known[:40])
        + (", …" if len(known) > 40 else "")
    )


def _part(
    traced: Trace, nodes: set[torch.fx.Node], previous: torch.fx.Node, last: torch.fx.Node
) -> torch.fx.GraphModule:
    """The module that runs `nodes`, fed by the tensor of `previous`, giving that of `last`."""
    graph = torch.fx.Graph()
    features = graph.placeholder("features")
    copies = {previous: features}

    def copy_of(node: torch.fx.Node) -> torch.fx.Node:
        if node not in copies:  # also what an earlier part reads too: parameters, batch size
            copies[node] = (
                graph.call_method("size", (features, 0))
                if is_batch_size(node)
                else graph.node_copy(node, copy_of)
            )
        return copies[node]

    for node in traced.nodes:
        if node in nodes and node.op != "output":
            copy_of(node)
    result = last.args[0] if last.op == "output" else last
    if not isinstance(result, torch.fx.Node):
        raise CutError(f"the network must give one tensor; it gives {result!r}")
    graph.output(copy_of(result))
    return torch.fx.GraphModule(traced.module, graph)


def _copy_input(name: str, part: nn.Module) -> None:
    """Let a part that begins with an operation in place leave its input as it is."""
    if not isinstance(part, torch.fx.GraphModule):
        raise CutError(
            f"part {name!r} changes its input in place, so that the boundary before it is lost; "
            "use inplace=False at its beginning"
        )
    features = next(iter(part.graph.nodes))
    with part.graph.inserting_after(features):
        copied = part.graph.call_method("clone", (features,))
    features.replace_all_uses_with(copied, delete_user_cb=lambda user: user is not copied)
    part.recompile()


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
