"""One candidate made in this process, from a space whose guide is trained."""

from __future__ import annotations

import torch

from nas_theseus import SearchSpace
from nas_theseus.candidate.workshop import Converted, Workshop
from nas_theseus.values.architecture import Architecture, BlockChoice, Span


def converted(space: SearchSpace, blocks: dict[int, str]) -> Converted:
    """The candidate with these blocks (by the guide's part) and all other parts kept."""
    choices = []
    for part in range(len(space.guide)):
        name = blocks.get(part, "keep")
        variant = next(space.families[name].variants())
        choices.append(BlockChoice(Span(part, part + 1), name, variant))
    workshop = Workshop(space, torch.device("cpu"))
    *_, last = workshop.convert(Architecture(tuple(choices)), 0)
    assert isinstance(last, Converted)
    return last
