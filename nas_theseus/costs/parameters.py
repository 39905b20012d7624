"""Number of parameters, tied ones counted once."""

from __future__ import annotations

from torch import nn


def count_params(*modules: nn.Module) -> int:
    """Elements of all parameters of the modules; one shared within or between them counts once.

    Raises:
        CostError is never raised; an uninitialised (lazy) parameter raises torch's ValueError.
    """
    unique = {id(parameter): parameter for module in modules for parameter in module.parameters()}
    return sum(parameter.numel() for parameter in unique.values())
