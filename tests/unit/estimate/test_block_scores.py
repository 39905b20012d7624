"""Scores of blocks: which error ranks, as a prior, and the least sum within limits."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from nas_theseus import SearchSpace, choice, cut
from nas_theseus.blocks import Depthwise, Identity, Keep, Linear, Pointwise
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import EstimateError, LimitError
from nas_theseus.estimate.additive import AdditiveEstimate
from nas_theseus.estimate.block_scores import (
    BlockScores,
    as_prior,
    best_by_score,
    by_score,
    capacities,
    errors_of,
)
from nas_theseus.library.record import Facts
from nas_theseus.tasks import digits
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.goals import Constraint

FACTS = Facts(0.9, 0.25, 3, 1000, 0.5, "cpu", contribution_error=0.5, divergence=0.1)
FIRST, SECOND = (BlockChoice(Span(i, i + 1), "linear") for i in range(2))


def conv(inlet: int, outlet: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inlet, outlet, 1), nn.ReLU())


def make_space(parts: int, *blocks: object) -> SearchSpace:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    net = nn.Sequential(conv(1, 4), *(conv(4, 4) for _ in range(parts - 1)), head)
    guide = cut(net, [str(i) for i in range(parts)], (1, 8, 8))
    return SearchSpace(guide=guide, task=digits(), blocks=[Keep(), *blocks], keep=["0", "head"])


def scores_of(space: SearchSpace, seed: int = 0) -> dict[BlockChoice, float]:
    """Divergences from 1e-4 to 10."""
    rng = np.random.default_rng(seed)
    return {
        one: float(10 ** rng.uniform(-4, 1))
        for span, share in space.fitting
        for one in space.choices(span, share)
        if one.block != "keep"
    }


def test_the_score_is_the_best_fact_that_all_records_have() -> None:
    without = replace(FACTS, divergence=None)
    old = replace(without, contribution_error=None)
    assert BlockScores.of({FIRST: [FACTS], SECOND: [FACTS]}).kind == "divergence"
    found = BlockScores.of({FIRST: [FACTS], SECOND: [without]})
    assert found == BlockScores("contribution_error", {FIRST: 0.5, SECOND: 0.5})
    found = BlockScores.of({FIRST: [FACTS], SECOND: [old, replace(old, residual=0.75)]})
    assert found == BlockScores("residual", {FIRST: 0.25, SECOND: 0.5})


def test_as_a_prior_scores_stay_linear_but_for_those_far_off() -> None:
    given = {BlockChoice(Span(i, i + 1), "linear"): s for i, s in enumerate([0, 1, 2, 3, 16, 160])}
    found = list(as_prior(given).values())
    c = 8 * 3  # the median of those above 0
    assert found == pytest.approx([0, 1, 2, 3, 16, c * (1 + math.log(160 / c))])
    assert as_prior({}) == {} and as_prior({FIRST: 0.0}) == {FIRST: 0.0}


def test_a_block_that_destroys_the_outputs_does_not_hide_the_others() -> None:
    """What the estimate expects to lose by usual blocks, in deviations among architectures."""
    blocks = {BlockChoice(Span(i, i + 1), "linear"): 0.1 for i in range(20)}
    kept = {BlockChoice(Span(i, i + 1), "keep"): 0.0 for i in range(20)}
    destroyed = {BlockChoice(Span(0, 1), "identity"): 1000.0}

    def lost(errors: dict[BlockChoice, float]) -> float:
        estimate = AdditiveEstimate(20, errors, spread=1.0)
        good, usual = (Architecture(tuple(each)) for each in (kept, blocks))
        found = estimate.predict([good, usual])[0]
        return float(found[0] - found[1])

    assert lost({**blocks, **kept}) > 4
    hidden = lost({**blocks, **kept, **destroyed})
    assert hidden < 0.01
    assert lost(as_prior({**blocks, **destroyed}) | kept) > 20 * hidden


def every(space: SearchSpace) -> list[Architecture]:
    steps = [space.choices(Span(i, i + 1), 1.0) for i in range(len(space.guide))]
    return [Architecture(tuple(each)) for each in itertools.product(*steps)]


@pytest.mark.parametrize("seed", range(3))
def test_the_best_by_score_is_that_of_all_architectures(seed: int) -> None:
    space = make_space(5, Depthwise(expand=choice(1, 2)), Linear(), Identity())
    costs, scores = CostTable(space), scores_of(space, seed)
    known = {one: costs.of(one) for one in every(space)}
    macs = sorted(cost.macs for cost in known.values())
    params = sorted(cost.params for cost in known.values())
    limits = [
        Constraint("macs", "<=", macs[len(macs) // 3]),
        Constraint("params", "<=", params[len(params) // 2]),
    ]

    def error(one: Architecture) -> float:
        return sum(scores.get(choice, 0.0) for choice in one.choices)

    for given in ([], limits[:1], limits):
        allowed = [
            one for one, cost in known.items() if all(g.limit >= cost[g.name] for g in given)
        ]
        ranked = sorted(allowed, key=error)
        assert best_by_score(space, costs, scores, given) == ranked[0]
        found = by_score(space, costs, scores, given, count=3)
        assert found.epsilon == 0
        assert found.errors.tolist() == pytest.approx([error(one) for one in ranked[:3]])
    with pytest.raises(LimitError, match="keeps macs <= 1"):
        best_by_score(space, costs, scores, [Constraint("macs", "<=", 1)])


def test_choices_without_a_score_are_left_out() -> None:
    space = make_space(3, Linear(), Identity())
    costs = CostTable(space)
    scores = {one: score for one, score in scores_of(space).items() if one.block == "linear"}
    cheap = Constraint("macs", "<=", min(costs.of(one).macs for one in every(space)))
    with pytest.raises(LimitError):  # the cheapest is of identities
        best_by_score(space, costs, scores, [cheap])
    with pytest.raises(EstimateError, match="no block has a score"):
        best_by_score(space, costs, {}, [])


def test_sixty_parts_by_twelve_choices_are_solved_exactly() -> None:
    """Against dynamic programming over every sum of costs."""
    space = make_space(61, Pointwise(expand=choice(*(i / 4 for i in range(1, 11)))), Identity())
    costs, scores = CostTable(space), scores_of(space)
    inner = [list(space.choices(Span(i, i + 1), 1.0)) for i in range(1, 61)]
    assert {len(choices) for choices in inner} == {12}
    fixed = costs.part_macs[0] + costs.part_macs[-1]
    for share in (0.8, 0.5):
        limit = fixed + share * sum(costs.part_macs[1:-1])
        found = best_by_score(space, costs, scores, [Constraint("macs", "<=", limit)])
        least = {0: 0.0}
        for choices in inner:
            steps = [(costs.of_choice(one).macs, scores.get(one, 0.0)) for one in choices]
            sums: dict[int, float] = {}
            for spent, error in least.items():
                for macs, more in steps:
                    total = spent + macs
                    if fixed + total <= limit and error + more < sums.get(total, math.inf):
                        sums[total] = error + more
            least = sums
        assert costs.of(found).macs <= limit
        summed = sum(scores.get(one, 0.0) for one in found.choices)
        assert summed == pytest.approx(min(least.values()), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_scores_by_inlet_width_give_the_least_sum(seed: int) -> None:
    space = replace(make_space(3, Pointwise(expand=choice(1, 2))), widths=(1.0, 0.5))
    rng = np.random.default_rng(seed)
    scores = {
        (one, share): float(rng.uniform(0, 1))
        for span, share in space.fitting
        for one in space.choices(span, share)
    }

    def every(start: int, share: float) -> list[tuple[float, tuple[BlockChoice, ...]]]:
        if start == len(space.guide):
            return [(0.0, ())] if share == 1 else []
        return [
            (scores[one, share] + behind, (one, *others))
            for one in space.choices(space.span(start, start + 1), share)
            for behind, others in every(start + 1, one.width_share)
        ]

    _, chosen = min(every(0, 1.0))
    found = best_by_score(space, CostTable(space), scores, [Constraint("macs", "<=", 1e9)])
    assert found.choices == chosen
    unknown = {key: value for key, value in scores.items() if key != (chosen[1], 1.0)}
    other = best_by_score(space, CostTable(space), unknown, [Constraint("macs", "<=", 1e9)])
    assert (chosen[1].block == "keep") == (other.choices == chosen)


def test_sums_of_capacities_are_the_logarithm_of_a_networks_macs_to_first_order() -> None:
    space = make_space(4, Pointwise(expand=choice(0.25, 0.5, 1)), Identity())
    costs = CostTable(space)
    known = capacities(space, costs)
    kept = {
        span.start: c
        for (span, _) in space.fitting
        for c in space.choices(span, 1.0)
        if c.block == "keep"
    }
    guide = Architecture(tuple(kept[part] for part in sorted(kept)))

    def total(one: Architecture) -> float:
        return sum(known[c] for c in one.choices)

    for other in (c for c in known if c.block != "keep"):
        start = other.span.start
        changed = Architecture((*guide.choices[:start], other, *guide.choices[other.span.stop :]))
        one, whole = costs.of_choice(other).macs, costs.of_parts().macs
        span = sum(costs.part_macs[start : other.span.stop])
        # d log T = dm / T for a small change; here the share of T is what the change weighs.
        wanted = span / whole * (math.log(one / span + 0.01) - math.log(1.01))
        assert total(changed) - total(guide) == pytest.approx(wanted)
    smaller = {c: costs.of_choice(c).macs for c in known if c.span == Span(1, 2)}
    assert sorted(smaller, key=smaller.__getitem__) == sorted(smaller, key=known.__getitem__)


def test_an_estimate_begins_with_no_error_for_kept_parts_unless_nothing_is_known() -> None:
    space = make_space(3, Linear())
    scores = scores_of(space)
    choices = [one for span, share in space.fitting for one in space.choices(span, share)]
    found = errors_of(scores, choices, space)
    kept = {one for one in choices if one.block == "keep"}
    assert kept and {one: found[one] for one in kept} == dict.fromkeys(kept, 0.0)
    assert {one: found[one] for one in scores} == as_prior(scores)
    assert errors_of({}, choices, space) == {}
