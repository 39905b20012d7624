"""Make a student from a teacher: change a copy, and check that its outputs are the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas_theseus.errors import TransformError
from nas_theseus.guide.chain import example_input
from nas_theseus.guide.tracing import evaluating
from nas_theseus.values.architecture import Boundary


def example(model: nn.Module, inlet: Boundary | Sequence[int]) -> Tensor:
    """Two example inputs of a network, shape (2, *inlet).

    Raises:
        TransformError: the network fails on them.
    """
    boundary = inlet if isinstance(inlet, Boundary) else Boundary(tuple(inlet))
    inputs = example_input(model, boundary, batch=2)
    output_of(model, inputs)
    return inputs


def output_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """A network's output in eval mode, as one tensor.

    Raises:
        TransformError: the network fails, or does not return one tensor.
    """
    try:
        with evaluating(model):
            found: Any = model(inputs)
    except Exception as error:  # the user's module may raise anything
        said = str(error).strip().partition("\n")[0]
        raise TransformError(
            f"{type(model).__name__} cannot be run on an input of shape {tuple(inputs.shape)}: "
            f"{type(error).__name__}: {said}. `inlet` is the shape of one input without the batch"
        ) from error
    found = getattr(found, "logits", found)  # Hugging Face's outputs
    found = found[0] if isinstance(found, tuple) else found
    if not isinstance(found, Tensor):
        raise TransformError(
            f"{type(model).__name__} must return one tensor to be transformed, but returns "
            f"{type(found).__name__}"
        )
    return found


def make_student(
    model: nn.Module,
    change: Callable[[nn.Module], None],
    inputs: Tensor,
    what: str,
    *,
    preserved: bool,
    in_place: bool,
) -> nn.Module:
    """Change a copy of the model, check its outputs, and only then change the model itself.

    Args:
        model: the teacher.
        change: turns any copy of the model into the student.
        inputs: inputs of both for the check.
        what: description of the transform for error messages.
        preserved: whether the outputs must be the same; if not, only their shape is checked.
        in_place: also change the model, and return it.

    Raises:
        TransformError: the student fails or computes other outputs, for example because a forward
            has a fixed width as a number.
    """
    student = copy.deepcopy(model)
    change(student)
    expected = output_of(model, inputs)
    try:
        found = output_of(student, inputs)
    except TransformError as error:
        raise TransformError(
            f"{what} gives a network that fails; does a forward have a fixed width as a number? "
            f"{error}"
        ) from error
    if found.shape != expected.shape:
        raise TransformError(
            f"{what} changes the output's shape from {tuple(expected.shape)} to "
            f"{tuple(found.shape)}; a forward has a fixed width as a number"
        )
    tolerance = max(1e-4, 32 * torch.finfo(expected.dtype).eps)
    if preserved and not (found - expected).abs().max() <= tolerance * expected.abs().max():
        raise TransformError(
            f"{what} changes the function: outputs differ by up to "
            f"{float((found - expected).abs().max()):.2g} of {float(expected.abs().max()):.2g}; "
            "is an activation not 0 at 0, does a forward have a fixed width as a number, or are "
            "weights so large that their sums are rounded?"
        )
    if not in_place:
        return student
    change(model)
    return model


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace a submodule by another module."""
    holder, _, last = name.rpartition(".")
    setattr(model.get_submodule(holder), last, module)
