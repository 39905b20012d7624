"""The control `kd`."""

from __future__ import annotations

from nas_theseus import Recipe
from nas_theseus.conversion.stage import stages


def test_nothing_is_aligned_and_nothing_of_the_guide_is_kept() -> None:
    assert stages("kd", "forward", (1, 3)) == []
    recipe = Recipe(schedule="kd", library=True)
    assert recipe.is_control and recipe.untouched_by_guide and recipe.taught
    assert not recipe.takes_blocks
