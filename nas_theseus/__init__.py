"""Architecture search that converts candidates from a working network, block by block."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from nas_theseus.values.version import VERSION

if TYPE_CHECKING:
    from nas_theseus.api.convert import convert
    from nas_theseus.api.registering import log_models, register
    from nas_theseus.api.reporting import report
    from nas_theseus.api.search import search
    from nas_theseus.api.stitch import stitch
    from nas_theseus.api.switch import switch
    from nas_theseus.blocks import block, choice
    from nas_theseus.export.member import load
    from nas_theseus.guide.chain import Guide
    from nas_theseus.guide.cut import cut, cut_points
    from nas_theseus.space.objectives import maximize, minimize
    from nas_theseus.space.search_space import SearchSpace
    from nas_theseus.values.architecture import Architecture, Boundary
    from nas_theseus.values.recipe import Recipe

__version__ = VERSION

__all__ = [
    "Architecture",
    "Boundary",
    "Guide",
    "Recipe",
    "SearchSpace",
    "block",
    "choice",
    "convert",
    "cut",
    "cut_points",
    "load",
    "log_models",
    "maximize",
    "minimize",
    "register",
    "report",
    "search",
    "stitch",
    "switch",
]

_MODULES = {
    "Architecture": "values.architecture",
    "Boundary": "values.architecture",
    "Guide": "guide.chain",
    "Recipe": "values.recipe",
    "SearchSpace": "space.search_space",
    "block": "blocks",
    "choice": "blocks",
    "convert": "api.convert",
    "cut": "guide.cut",
    "cut_points": "guide.cut",
    "load": "export.member",
    "log_models": "api.registering",
    "maximize": "space.objectives",
    "minimize": "space.objectives",
    "register": "api.registering",
    "report": "api.reporting",
    "search": "api.search",
    "stitch": "api.stitch",
    "switch": "api.switch",
}


def __getattr__(name: str) -> object:
    """Import on first use (PEP 562): commands that need no torch must not wait for it."""
    if name not in _MODULES:
        raise AttributeError(f"module 'nas_theseus' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nas_theseus.{_MODULES[name]}"), name)
