"""Numbers and bytes of parameters, tied ones counted once."""

from __future__ import annotations

import torch
from torch import nn

from nas_theseus.errors import CostError


def count_params(*modules: nn.Module) -> int:
    """Elements of all parameters; a parameter shared within or between modules counts once."""
    unique = {id(parameter): parameter for module in modules for parameter in module.parameters()}
    return sum(parameter.numel() for parameter in unique.values())


def element_bytes(dtype: str | None, tensor: torch.Tensor) -> int:
    """Bytes of one element in a type given by name; in the tensor's own type for None.

    Raises:
        CostError: torch has no type of this name.
    """
    return tensor.element_size() if dtype is None else dtype_of(dtype).itemsize


def dtype_of(name: str) -> torch.dtype:
    """Type of torch by name, such as ``bfloat16``.

    Raises:
        CostError: torch has no type of this name.
    """
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise CostError(
            f"dtype {name!r} is no type of torch; use 'float32', 'bfloat16' or 'float16'"
        )
    return found
