"""Architecture search that converts candidates from a working network, block by block."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas_theseus.architecture import Architecture, Boundary
    from nas_theseus.blocks import block, choice
    from nas_theseus.export.folder import load
    from nas_theseus.guide import Guide, cut, cut_points
    from nas_theseus.settings import Recipe
    from nas_theseus.space import SearchSpace, maximize, minimize

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "Boundary",
    "Guide",
    "Recipe",
    "SearchSpace",
    "block",
    "choice",
    "cut",
    "cut_points",
    "load",
    "maximize",
    "minimize",
]

_MODULES = {
    "Architecture": "architecture",
    "Boundary": "architecture",
    "Guide": "guide",
    "Recipe": "settings",
    "SearchSpace": "space",
    "block": "blocks",
    "choice": "blocks",
    "cut": "guide",
    "cut_points": "guide",
    "load": "export.folder",
    "maximize": "space",
    "minimize": "space",
}


def __getattr__(name: str) -> object:
    """Import on first use (PEP 562): commands that need no torch must not wait for it."""
    if name not in _MODULES:
        raise AttributeError(f"module 'nas_theseus' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nas_theseus.{_MODULES[name]}"), name)
