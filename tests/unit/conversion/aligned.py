"""Run an alignment whose multiply-adds nobody counts, for tests of what it does."""

from __future__ import annotations

import torch

from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.alignment import Alignment, align
from nas_theseus.conversion.similarity import Similarity
from nas_theseus.conversion.target import Target
from nas_theseus.values.outcomes import CurvePoint
from nas_theseus.values.recipe import Recipe


def uncounted(
    target: Target,
    guide: GuideActivations,
    similarity: Similarity,
    recipe: Recipe,
    generator: torch.Generator,
) -> Alignment:
    """An alignment whose blocks cost nothing."""
    return Alignment(target, guide, similarity, recipe, generator, [0] * len(target.blocks))


def align_points(
    target: Target,
    guide: GuideActivations,
    similarity: Similarity,
    recipe: Recipe,
    generator: torch.Generator,
) -> list[CurvePoint]:
    """All points of an alignment."""
    run = uncounted(target, guide, similarity, recipe, generator)
    return [point for result in align(run) for point in result.points]
