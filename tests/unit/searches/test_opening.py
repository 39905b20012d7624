"""The worst values that count in the hypervolume."""

from __future__ import annotations

import pytest
from torch import nn

from nas_theseus import maximize, minimize
from nas_theseus.searches.opening import reference_of
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction


class Spare:
    """A cost of which more is better."""

    name, unit, additive = "spare_cells", "cells", True
    direction: Direction = "maximize"

    def count(self, module: nn.Module, inlet: Boundary) -> float:
        return 1.0


def test_of_a_cost_the_guide_s_counts_and_of_a_quality_less() -> None:
    goals = (maximize("val_accuracy"), minimize("val_perplexity"), minimize("macs"))
    goals = (*goals, maximize(Spare()), minimize("params", reference=7.0))
    guide = {"val_accuracy": 0.9, "val_perplexity": 20.0, "macs": 100, "spare_cells": 8}
    quality = {"val_accuracy": pytest.approx(0.8), "val_perplexity": 30.0}
    assert reference_of(goals, guide) == {
        **quality,
        "macs": 100,
        "spare_cells": 8,
        "params": 7.0,
    }
    assert reference_of(goals, guide, growth=4.0) == {
        **quality,
        "macs": 400,
        "spare_cells": 2,
        "params": 7.0,
    }
