"""Architecture search that converts candidates from a working network, block by block."""

from __future__ import annotations

from nas_theseus.blocks import block, choice
from nas_theseus.export import load
from nas_theseus.guide import Guide, cut, cut_points
from nas_theseus.settings import Recipe
from nas_theseus.space import SearchSpace, maximize, minimize
from nas_theseus.values import Architecture, Boundary

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
