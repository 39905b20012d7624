"""The guide: an ordered chain of parts, with its boundaries and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas_theseus.errors import CutError
from nas_theseus.guide.tracing import evaluating
from nas_theseus.values.architecture import Boundary


class Guide(nn.Module):
    """A network as a chain of parts; each part takes exactly one tensor.

    Args:
        parts: name and module of each part, from input to output.
        inlet: shape of one input without the batch dimension; a task's `task.inlet` also says
            whether the input is token ids.

    Attributes:
        pretrained: the model that the parts are from, for guides of `huggingface_guide`.
        preprocessing: what the network expects of pictures (`tasks.preprocessing.Preprocessing`),
            for guides of `vision_guide`; tasks of pictures take it over.
        weights_from: what the weights are called that were trained elsewhere, for guides of
            `vision_guide`.

    Raises:
        CutError: a part does not map one tensor to one tensor with the batch dimension first, or
            two runs in eval mode differ.
    """

    pretrained: Any = None
    preprocessing: Any = None
    weights_from: str | None = None

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
        self.boundaries = self._measure_boundaries(as_inlet(inlet))

    def _measure_boundaries(self, inlet: Boundary) -> tuple[Boundary, ...]:
        features = example_input(self, inlet, batch=2)
        boundaries = [inlet]
        with evaluating(self):
            for name, part in zip(self.names, self.parts, strict=True):
                before, given = features, features.clone()
                try:
                    features = part(given)
                except Exception as error:  # the user's module may raise anything
                    raise does_not_run(f"part {name!r}", before, inlet, error) from error
                if given._version:
                    copy_input(name, part)
                if not isinstance(features, Tensor) or features.shape[:1] != before.shape[:1]:
                    raise CutError(
                        f"part {name!r} must return one tensor with the batch dimension first; it "
                        f"returned {describe(features)} for an input of shape {tuple(before.shape)}"
                    )
                if not torch.equal(features, part(before)):
                    raise CutError(
                        f"part {name!r} returns different outputs for the same input in eval mode; "
                        "a guide must be deterministic in eval mode (does it use random numbers "
                        "outside Dropout?)"
                    )
                shape = tuple(features.shape[1:])
                if not 1 <= len(shape) <= 3:
                    raise CutError(
                        f"the boundary after part {name!r} has shape {shape}; a boundary is "
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


def as_inlet(given: Boundary | Sequence[int]) -> Boundary:
    """The shape of one input, given as a boundary or a sequence, as a boundary."""
    if isinstance(given, Boundary):
        return given
    sizes = tuple(given) if isinstance(given, Sequence) else ()
    if not 1 <= len(sizes) <= 3 or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise CutError(
            "an inlet is the shape of one input without the batch dimension, such as "
            f"(3, 224, 224), not {given!r}"
        )
    return Boundary(sizes)


def does_not_run(what: str, features: Tensor, inlet: Boundary, error: Exception) -> CutError:
    """The error for a network or part that fails on its own inputs, with the likely cause."""
    ids = " For token ids use the task's inlet, task.inlet." if inlet.kind == "vector" else ""
    said = str(error).strip().partition("\n")[0]
    return CutError(
        f"{what} cannot be run on an input of shape {tuple(features.shape)}: "
        f"{type(error).__name__}: {said}. The guide's inlet is {inlet}: does the network take "
        f"inputs of this shape?{ids}"
    )


def device_of(module: nn.Module) -> torch.device:
    """Device of the module's first parameter or buffer; the CPU if it has none."""
    return next((tensor.device for tensor in _state(module)), torch.device("cpu"))


def example_input(module: nn.Module, inlet: Boundary, batch: int = 1, seed: int = 0) -> Tensor:
    """An input of shape (batch, *inlet.shape) on the module's device, always the same values.

    Token ids are zeros; other inlets are standard normal in the module's own floating dtype. The
    global random state is not touched.

    Raises:
        ValueError: batch < 1.
    """
    if batch < 1:
        raise ValueError(f"a batch needs at least one example, not {batch}")
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


def copy_input(name: str, part: nn.Module) -> None:
    """Make a part that begins with an in-place operation copy its input first."""
    if not isinstance(part, torch.fx.GraphModule):
        raise CutError(
            f"part {name!r} changes its input in place, which overwrites the boundary before it; "
            "use inplace=False at the beginning of the part"
        )
    features = next(iter(part.graph.nodes))
    with part.graph.inserting_after(features):
        copied = part.graph.call_method("clone", (features,))
    features.replace_all_uses_with(copied, delete_user_cb=lambda user: user is not copied)
    part.recompile()


def describe(value: object) -> str:
    """Describe a value in a message: the shape of a tensor, or the type."""
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
