"""Stitching blocks into the guide tells which span they match, and suggests where to begin."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nas_theseus import SearchSpace
from nas_theseus.blocks import Identity, Keep, Linear, Pointwise, choice
from nas_theseus.costs.table import CostTable
from nas_theseus.guide.chain import Guide
from nas_theseus.stitching.suggestions import radical_inverse, stitch_errors, suggested
from nas_theseus.tasks import ImageTask
from nas_theseus.values.architecture import Architecture, BlockChoice, Span


class Shuffled(nn.Module):
    """Every position reads the opposite corner: no map of single positions gives it."""

    def forward(self, features: Tensor) -> Tensor:
        return features.flip((2, 3))


@pytest.fixture
def space(task: ImageTask) -> SearchSpace:
    torch.manual_seed(0)
    parts = [
        ("stem", nn.Conv2d(1, 6, 3, 2, 1)),
        ("one", nn.Conv2d(6, 6, 1)),
        ("two", nn.Conv2d(6, 6, 1)),
        ("shuffled", nn.Sequential(Shuffled(), nn.Conv2d(6, 6, 1))),
        ("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))),
    ]
    return SearchSpace(
        guide=Guide(parts, task.inlet), task=task, max_span=2, keep=["stem", "head"],
        blocks=[Keep(), Linear(), Pointwise(expand=choice(1, 2)), Identity()],
    )  # fmt: skip


def test_a_block_matches_the_boundary_that_it_can_stand_for(space: SearchSpace) -> None:
    errors = stitch_errors(space, examples=120)
    assert set(errors) == {
        choice for span, share in space.fitting for choice in space.choices(span, share)
    }
    assert all(error == 0 for choice, error in errors.items() if choice.block == "keep")
    linear = {c.span: error for c, error in errors.items() if c.block == "linear"}
    # Two linear layers in a row are one; over the shuffled part a linear map sees nothing of it.
    assert max(linear[span] for span in (Span(1, 2), Span(2, 3), Span(1, 3))) < 1e-3
    assert min(linear[span] for span in (Span(3, 4), Span(2, 4))) > 0.5
    assert errors == stitch_errors(space, examples=120)


def test_a_block_without_parameters_is_held_to_the_boundary_itself(space: SearchSpace) -> None:
    errors = stitch_errors(space, examples=120)
    identity = BlockChoice(Span(1, 2), "identity")
    inputs = space.task.sample(120)
    with torch.no_grad():
        features = space.guide.features(inputs, {1, 2})
    given, expected = features[1][60:], features[2][60:]
    left = (given - expected).square().mean() / expected.var(0, unbiased=False).mean()
    assert errors[identity] == pytest.approx(float(left), rel=1e-4)


def every(space: SearchSpace) -> list[Architecture]:
    def behind(start: int) -> list[tuple[BlockChoice, ...]]:
        if start == len(space.guide):
            return [()]
        spans = [span for span in space.spans() if span.start == start]
        choices = [choice for span in spans for choice in space.choices(span)]
        return [(one, *rest) for one in choices for rest in behind(one.span.stop)]

    return [Architecture(choices) for choices in behind(0)]


def test_suggestions_are_on_the_front_of_errors_and_cost(space: SearchSpace) -> None:
    space = replace(space, constraints=["params <= 200"])
    costs = CostTable(space)
    errors = {c: (i * 7919 % 101) / 101 for i, c in enumerate(stitch_errors(space, 40))}

    def point(architecture: Architecture) -> tuple[float, int]:
        error = sum(errors[choice] for choice in architecture.choices)
        return round(error, 9), costs.of(architecture).macs

    allowed = {one: point(one) for one in every(space) if costs.of(one).params <= 200}
    assert 0 < len(allowed) < len(every(space))
    best = {
        one: (error, macs)
        for one, (error, macs) in allowed.items()
        if not any(
            e <= error and m <= macs and (e, m) != (error, macs) for e, m in allowed.values()
        )
        and one != space.guide_architecture()
    }
    every_one = suggested(space, costs, errors, 100)
    assert set(every_one) <= set(best)
    assert len(every_one) == len(set(best.values())) > 1
    assert suggested(space, costs, errors, 2) == every_one[:2]


def test_no_more_is_suggested_than_the_front_has(space: SearchSpace) -> None:
    costs = CostTable(space)
    errors = dict.fromkeys(stitch_errors(space, 40), 0.0)
    # Without any error the cheapest alone is on the front.
    (only,) = suggested(space, costs, errors, 5)
    assert costs.of(only).macs == min(costs.of(one).macs for one in every(space))
    assert suggested(space, costs, errors, 0) == []


def test_the_radical_inverse_mirrors_binary_digits() -> None:
    assert [radical_inverse(n) for n in range(6)] == [0, 0.5, 0.25, 0.75, 0.125, 0.625]
