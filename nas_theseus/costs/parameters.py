"""Number of parameters, tied ones counted once."""

from __future__ import annotations

from torch import nn


def count_params(*modules: nn.Module) -> int:
    """Elements of all parameters; a parameter shared within or between modules counts once."""
    unique = {id(parameter): parameter for module in modules for parameter in module.parameters()}
    return sum(parameter.numel() for parameter in unique.values())
