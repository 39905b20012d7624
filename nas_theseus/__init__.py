"""Architecture search that converts candidates from a working network, block by block."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas_theseus.blocks import block, choice
    from nas_theseus.export.member import load
    from nas_theseus.guide.chain import Guide
    from nas_theseus.guide.cut import cut, cut_points
    from nas_theseus.space.objectives import maximize, minimize
    from nas_theseus.space.search_space import SearchSpace
    from nas_theseus.values.architecture import Architecture, Boundary
    from nas_theseus.values.recipe import Recipe

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
    "Architecture": "values.architecture",
    "Boundary": "values.architecture",
    "Guide": "guide.chain",
    "Recipe": "values.recipe",
    "SearchSpace": "space.search_space",
    "block": "blocks",
    "choice": "blocks",
    "cut": "guide.cut",
    "cut_points": "guide.cut",
    "load": "export.member",
    "maximize": "space.objectives",
    "minimize": "space.objectives",
}


def __getattr__(name: str) -> object:
    """Import on first use (PEP 562): commands that need no torch must not wait for it."""
    if name not in _MODULES:
        raise AttributeError(f"module 'nas_theseus' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nas_theseus.{_MODULES[name]}"), name)
