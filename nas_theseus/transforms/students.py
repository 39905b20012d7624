"""From a teacher to its student: an example of its input, a change, and the check that holds it."""

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
    """Two inputs of a network, shape (2, *inlet).

    Raises:
        TransformError: the network cannot be run on them.
    """
    boundary = inlet if isinstance(inlet, Boundary) else Boundary(tuple(inlet))
    inputs = example_input(model, boundary, batch=2)
    output_of(model, inputs)
    return inputs


def output_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """What a network gives in eval mode, as one tensor.

    Raises:
        TransformError: it does not run, or gives something else.
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
            f"{type(model).__name__} must give one tensor to be transformed, it gives "
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
    """Change a copy, hold it to the teacher's function, and only then touch the model itself.

    Args:
        model: the teacher.
        change: makes a student of any copy of the model.
        inputs: of both, for the check.
        what: the transform, in words, for the error.
        preserved: whether the function must be the same; otherwise only its shape.
        in_place: change the model, too, and return it.

    Raises:
        TransformError: the student does not run or computes something else, as where a forward
            holds a width as a number.
    """
    student = copy.deepcopy(model)
    change(student)
    expected = output_of(model, inputs)
    try:
        found = output_of(student, inputs)
    except TransformError as error:
        raise TransformError(
            f"{what} gives a network that does not run; does a forward hold a width as a number? "
            f"{error}"
        ) from error
    if found.shape != expected.shape:
        raise TransformError(
            f"{what} changes the output's shape from {tuple(expected.shape)} to "
            f"{tuple(found.shape)}; a forward holds a width as a number"
        )
    tolerance = max(1e-4, 32 * torch.finfo(expected.dtype).eps)
    if preserved and not (found - expected).abs().max() <= tolerance * expected.abs().max():
        raise TransformError(
            f"{what} does not keep the function: outputs differ by up to "
            f"{float((found - expected).abs().max()):.2g} of {float(expected.abs().max()):.2g}; "
            "an activation that is not 0 at 0, a forward that holds a width as a number, or "
            "weights so large that their sum rounds off?"
        )
    if not in_place:
        return student
    change(model)
    return model


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put another module in a submodule's place."""
    holder, _, last = name.rpartition(".")
    setattr(model.get_submodule(holder), last, module)
