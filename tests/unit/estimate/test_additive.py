"""The additive estimate against closed forms, and on simulated spaces whose truth is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import kendalltau, multivariate_normal

from nas_theseus.errors import EstimateError
from nas_theseus.estimate.additive import AdditiveEstimate, advantages
from nas_theseus.estimate.front import AdditiveSpace, Option
from nas_theseus.estimate.posterior import Columns, Observation, Rows, Standard
from nas_theseus.estimate.variances import Learnt, Unknown, negative_log_evidence, with_values
from nas_theseus.values.architecture import Architecture, BlockChoice, Span

PARTS, BLOCKS = 6, 5


def choice(part: int, block: int, length: int = 1) -> BlockChoice:
    return BlockChoice(Span(part, part + length), f"b{block}")


def architecture(blocks: tuple[int, ...] | list[int]) -> Architecture:
    return Architecture(tuple(choice(part, block) for part, block in enumerate(blocks)))


def sample(rng: np.random.Generator, count: int, blocks: int = BLOCKS) -> list[Architecture]:
    return [architecture(rng.integers(0, blocks, PARTS).tolist()) for _ in range(count)]


def truth(rng: np.random.Generator, deviation: float = 0.02) -> dict[BlockChoice, float]:
    return {
        choice(part, block): float(deviation * rng.normal())
        for part in range(PARTS)
        for block in range(BLOCKS)
    }


def quality(weights: dict[BlockChoice, float], net: Architecture) -> float:
    return 0.9 + sum(weights[c] for c in net.choices)


def taught(
    rng: np.random.Generator,
    nets: list[Architecture],
    true: Callable[[Architecture], float],
    noise: float,
    **settings: object,
) -> AdditiveEstimate:
    estimate = AdditiveEstimate(PARTS, **settings)  # type: ignore[arg-type]
    for net in nets:
        estimate.update(net, true(net) + noise * rng.normal())
    return estimate


def design(nets: list[Architecture], choices: list[BlockChoice]) -> np.ndarray:
    return np.array([[c in net.choices for c in choices] for net in nets], dtype=float)


def test_mean_and_covariance_are_those_of_bayesian_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    weights = truth(rng)
    choices = list(weights)
    nets = sample(rng, 40)
    errors = {c: float(rng.uniform()) for c in choices}
    estimate = AdditiveEstimate(PARTS, errors, pairs=False)
    own = rng.uniform(0.001, 0.01, len(nets))
    y = np.array(
        [quality(weights, net) + s * rng.normal() for net, s in zip(nets, own, strict=True)]
    )
    for net, value, noise in zip(nets, y, own, strict=True):
        estimate.update(net, value, noise)

    # The same in weight space: columns intercept, slope, one for each choice.
    learnt, spread = estimate.learnt, estimate.spread
    usual = np.mean(list(errors.values()))
    z = np.array([usual - errors[c] for c in choices])
    z /= math.sqrt((z**2).mean() * PARTS)
    phi = design(nets, choices)
    rows = np.column_stack([np.ones(len(nets)), phi @ z, phi])
    prior = (
        np.array([learnt.offset_variance, learnt.slope_variance, *[learnt.choice] * len(choices)])
        * spread**2
    )
    mean = np.array([y.mean(), 0.5 * spread, *[0.0] * len(choices)])
    noise = learnt.noise[0] * spread**2 + own**2
    precision = np.diag(1 / prior) + rows.T @ (rows / noise[:, None])
    covariance = np.linalg.inv(precision)
    theta = mean + covariance @ rows.T @ ((y - rows @ mean) / noise)

    new = sample(rng, 30)
    at = np.column_stack([np.ones(30), design(new, choices) @ z, design(new, choices)])
    found, deviation = estimate.predict(new)
    np.testing.assert_allclose(found, at @ theta, rtol=1e-8)
    np.testing.assert_allclose(
        deviation**2, np.einsum("ij,jk,ik->i", at, covariance, at), rtol=1e-6
    )
    to_weights = np.column_stack([z, np.eye(len(choices))])
    np.testing.assert_allclose(estimate.weights(choices), to_weights @ theta[1:], atol=1e-10)

    draws = estimate.draws(choices, 4000, rng)
    expected = to_weights @ covariance[1:, 1:] @ to_weights.T
    variance = np.diag(expected)
    error = np.sqrt(variance / len(draws))
    assert (abs(draws.mean(axis=0) - to_weights @ theta[1:]) < 4.5 * error).all()
    assert (abs(np.cov(draws.T) - expected) < 0.1 * np.sqrt(np.outer(variance, variance))).all()


def test_draws_sum_up_to_qualities_as_they_are_predicted() -> None:
    rng = np.random.default_rng(1)
    weights = truth(rng)
    seen = sample(rng, 12, blocks=3)
    errors = {c: float(rng.uniform()) for c in weights}
    estimate = taught(rng, seen, lambda net: quality(weights, net), 0.005, errors=errors)
    first, second = seen[0], seen[1]
    choices = list(dict.fromkeys([*first.choices, *second.choices, choice(5, 4)]))
    assert choice(5, 4) not in {c for net in seen for c in net.choices}
    draws = estimate.draws(choices, 3000, rng)
    means, spread = estimate.weights(choices), draws.std(axis=0)
    assert (abs(draws.mean(axis=0) - means) < 4.5 * spread / math.sqrt(len(draws))).all()
    prior = (estimate.learnt.choice + estimate.learnt.slope_variance) * estimate.spread**2
    assert spread[-1] ** 2 < prior, "the slope was learnt from the others"

    assert estimate.learnt.pair == 0
    better = design([first], choices) - design([second], choices)
    mean, _ = estimate.predict([first, second])
    drawn = (draws @ better.T)[:, 0]
    assert abs(drawn.mean() - (mean[0] - mean[1])) < 4.5 * drawn.std() / math.sqrt(len(draws))
    one, other = (estimate.draws(choices, 2, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert (one[0] != one[1]).all(), "another draw each"


def test_rank_correlation_grows_with_data() -> None:
    correlations = []
    for count in (0, 10, 40, 160):
        taus = []
        for seed in range(6):
            rng = np.random.default_rng(seed)
            weights = truth(rng)
            test = sample(rng, 200)
            estimate = taught(
                rng, sample(rng, count), lambda net, w=weights: quality(w, net), 0.01,
                errors={c: -0.5 * w + 0.02 * rng.normal() for c, w in weights.items()},
            )  # fmt: skip
            true = [quality(weights, net) for net in test]
            taus.append(kendalltau(estimate.predict(test)[0], true).statistic)
        correlations.append(float(np.mean(taus)))
    assert correlations[0] > 0.15, "block errors alone tell something"
    assert correlations == sorted(correlations)
    assert correlations[-1] > 0.85


@pytest.mark.parametrize(
    ("count", "noise", "seeds"), [(15, 0.01, 60), (40, 0.01, 30), (40, 0.05, 30), (150, 0.02, 8)]
)
def test_ninety_percent_intervals_cover_about_ninety_percent(
    count: int, noise: float, seeds: int
) -> None:
    covered = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        weights = truth(rng)
        estimate = taught(rng, sample(rng, count), lambda net, w=weights: quality(w, net), noise)
        test = sample(rng, 50)
        mean, deviation = estimate.predict(test)
        true = np.array([quality(weights, net) for net in test])
        covered.append((abs(true - mean) < 1.645 * deviation).mean())
    assert 0.82 < np.mean(covered) < 0.97


def test_the_evidence_is_the_density_of_the_data_and_its_gradient_is_right() -> None:
    rng = np.random.default_rng(2)
    count = 14
    nets = [*sample(rng, count - 4, blocks=2), *[architecture([0] * PARTS)] * 4]
    errors = {c: float(rng.uniform()) for c in truth(rng)}
    advantage = advantages(errors, PARTS)
    rungs = ("cheap", "middle", "final")
    told = [
        Observation(net, float(rng.normal()), 0.1 * i, rungs[i % 3]) for i, net in enumerate(nets)
    ]
    columns = Columns()
    for net in nets:
        columns.add(net)
    data = Rows(told, columns, rungs, Standard(1.3, (0.1, 0.2, 0.3)), advantage).components
    learnt = Learnt(0.3, 0.2, 0.1, np.array([0.2, 0.3, 0.4]), np.array([0.7, 1.4, 1.0]))
    unknown = [
        Unknown(name, rung, 0.0, 1.0)
        for name, rung in [
            ("choice", 0), ("pair", 0), ("residual", 0), ("noise", 0), ("noise", 2), ("scale", 0),
            ("scale", 1),
        ]
    ]  # fmt: skip
    logs = np.log([0.3, 0.2, 0.1, 0.2, 0.4, 0.7, 1.4])

    def value(logs: np.ndarray) -> float:
        return negative_log_evidence(data, with_values(learnt, unknown, logs), ())[0]

    density = multivariate_normal(
        learnt.scale[data.rung] * 0.5 * data.advantage, learnt.covariance(data)
    )
    found, gradient = negative_log_evidence(data, learnt, unknown)
    assert found == pytest.approx(-density.logpdf(data.quality), rel=1e-10)
    numeric = [(value(logs + 1e-5 * e) - value(logs - 1e-5 * e)) / 2e-5 for e in np.eye(len(logs))]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-7)


def test_cheap_rungs_inform_the_last() -> None:
    gains = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        weights = truth(rng)
        few, many, test = sample(rng, 8), sample(rng, 60), sample(rng, 150)
        true = [quality(weights, net) for net in test]
        alone = AdditiveEstimate(PARTS)
        both = AdditiveEstimate(PARTS, rungs=("cheap", "final"))
        for net in many:
            cheap = 0.3 + 0.5 * quality(weights, net) + 0.01 * rng.normal()
            both.update(net, cheap, rung="cheap")
        for net in few:
            value = quality(weights, net) + 0.005 * rng.normal()
            alone.update(net, value)
            both.update(net, value)
        taus = [kendalltau(e.predict(test)[0], true).statistic for e in (alone, both)]
        gains.append(taus[1] - taus[0])
        assert taus[1] > 0.6
    assert np.mean(gains) > 0.2


def test_offset_and_scale_of_a_rung_are_learnt() -> None:
    rng = np.random.default_rng(3)
    weights = truth(rng)
    estimate = AdditiveEstimate(PARTS, rungs=("cheap", "final"))
    for net in sample(rng, 80):
        value = quality(weights, net)
        estimate.update(net, 0.2 + 0.5 * (value - 0.9) + 0.002 * rng.normal(), rung="cheap")
        estimate.update(net, value + 0.002 * rng.normal())
    assert estimate.learnt.scale == pytest.approx([0.5, 1.0], rel=0.1)
    test = sample(rng, 50)
    true = [quality(weights, net) for net in test]
    np.testing.assert_allclose(estimate.predict(test)[0], true, atol=0.01)


def test_what_no_sum_explains_is_known_from_another_rung_of_the_same_architecture() -> None:
    rng = np.random.default_rng(4)
    weights = truth(rng, 0.005)
    nets = sample(rng, 60)
    own = {net: 0.04 * rng.normal() for net in nets}
    estimate = AdditiveEstimate(PARTS, rungs=("cheap", "final"), pairs=False)
    for net in nets:
        value = quality(weights, net) + own[net]
        estimate.update(net, value - 0.2 + 0.002 * rng.normal(), rung="cheap")
    for net in nets[:40]:
        estimate.update(net, quality(weights, net) + own[net] + 0.002 * rng.normal())
    left = nets[40:]
    mean, deviation = estimate.predict(left)
    true = [quality(weights, net) + own[net] for net in left]
    assert np.corrcoef(mean, true)[0, 1] > 0.9
    assert (deviation < estimate.predict(sample(rng, 20))[1].mean()).all()


def test_pairs_are_kept_where_the_data_carry_them_and_not_elsewhere() -> None:
    rng = np.random.default_rng(5)
    weights = truth(rng, 0.005)
    blocks = range(3)
    pair = {
        (choice(i, a), choice(i + 1, b)): 0.03 * rng.normal()
        for i, a, b in itertools.product(range(PARTS - 1), blocks, blocks)
    }

    def paired(net: Architecture) -> float:
        return quality(weights, net) + sum(pair[p] for p in itertools.pairwise(net.choices))

    nets, test = sample(rng, 120, blocks=3), sample(rng, 100, blocks=3)
    with_pairs = taught(rng, nets, paired, 0.005)
    without = taught(rng, nets, paired, 0.005, pairs=False)
    assert with_pairs.learnt.pair > 0 == without.learnt.pair
    true = [paired(net) for net in test]
    errors = [np.abs(e.predict(test)[0] - true).mean() for e in (with_pairs, without)]
    assert errors[0] < 0.7 * errors[1]
    assert taught(rng, nets, lambda net: quality(weights, net), 0.005).learnt.pair == 0


def test_without_observations_block_errors_rank_and_the_level_is_what_was_said() -> None:
    errors = {choice(part, block): float(block) for part in range(PARTS) for block in range(3)}
    estimate = AdditiveEstimate(PARTS, errors, level=0.8, spread=0.1)
    nets = [architecture([block] * PARTS) for block in range(3)]
    mean, deviation = estimate.predict(nets)
    assert mean[0] > mean[1] > mean[2]
    assert mean[1] == pytest.approx(0.8)
    assert (deviation > 0.1).all()
    means = estimate.weights([choice(0, 0), choice(0, 2)])
    assert means[0] == -means[1] > 0
    draws = estimate.draws([choice(0, 0), choice(0, 2)], 2000, np.random.default_rng(0))
    assert np.cov(draws.T)[0, 1] < 0, "one slope moves both"
    assert AdditiveEstimate(PARTS).predict([])[0].shape == (0,)


def test_a_choice_never_seen_keeps_its_prior() -> None:
    rng = np.random.default_rng(6)
    weights = truth(rng)
    estimate = taught(rng, sample(rng, 60, blocks=4), lambda net: quality(weights, net), 0.005)
    choices = [choice(0, 4), choice(0, 0)]
    assert estimate.weights(choices)[0] == 0
    prior = estimate.learnt.choice * estimate.spread**2
    never, often = estimate.draws(choices, 5000, rng).var(axis=0)
    assert never == pytest.approx(prior, rel=0.1)
    assert often < 0.6 * prior


def test_block_errors_that_mislead_are_not_believed() -> None:
    rng = np.random.default_rng(7)
    weights = truth(rng)
    wrong = {c: 10 * w for c, w in weights.items()}
    estimate = AdditiveEstimate(PARTS, wrong)
    test = sample(rng, 100)
    true = [quality(weights, net) for net in test]
    assert kendalltau(estimate.predict(test)[0], true).statistic < -0.9
    for net in sample(rng, 25):
        estimate.update(net, quality(weights, net) + 0.005 * rng.normal())
    assert kendalltau(estimate.predict(test)[0], true).statistic > 0.8


def test_errors_told_later_count() -> None:
    errors = {choice(part, block): float(block) for part in range(PARTS) for block in range(2)}
    nets = [architecture([0] * PARTS), architecture([1] * PARTS)]
    estimate = AdditiveEstimate(PARTS)
    before = estimate.predict(nets)[0]
    estimate.add_errors(errors)
    after = estimate.predict(nets)[0]
    assert before[0] == before[1]
    np.testing.assert_array_equal(after, AdditiveEstimate(PARTS, errors).predict(nets)[0])
    assert after[0] > after[1]


def test_what_is_learnt_depends_on_observations_alone_not_on_when_one_asks() -> None:
    rng = np.random.default_rng(8)
    weights = truth(rng)
    nets = sample(rng, 75)
    values = [quality(weights, net) + 0.01 * rng.normal() for net in nets]
    asked, silent = AdditiveEstimate(PARTS), AdditiveEstimate(PARTS)
    for net, value in zip(nets, values, strict=True):
        asked.update(net, value)
        silent.update(net, value)
        asked.predict(nets[:2])
    np.testing.assert_array_equal(asked.predict(nets)[0], silent.predict(nets)[0])
    assert len(asked.observations) == 75


@pytest.mark.parametrize("count", [1, 2, 30])
@pytest.mark.parametrize("value", [0.0, 1e-9, 1e6])
def test_degenerate_observations_give_finite_estimates(count: int, value: float) -> None:
    net = architecture([0] * PARTS)
    estimate = AdditiveEstimate(PARTS, {choice(0, 0): 1.0}, rungs=("cheap", "final"))
    for _ in range(count):
        estimate.update(net, value, rung="cheap")
        estimate.update(net, value)
    mean, deviation = estimate.predict([net, architecture([1] * PARTS)])
    assert mean[0] == pytest.approx(value, abs=0.01, rel=1e-6)
    assert np.isfinite(mean).all() and (0 < deviation[0] < deviation[1])


def test_spans_of_several_parts_and_far_away_units_are_learnt() -> None:
    rng = np.random.default_rng(9)
    long = [choice(0, b, 3) for b in range(3)] + [choice(3, b, 3) for b in range(3)]
    weights = {**truth(rng, 40.0), **{c: float(60 * rng.normal()) for c in long}}

    def net() -> Architecture:
        halves = [
            [long[3 * half + int(rng.integers(3))]] if rng.uniform() < 0.5
            else [choice(part, int(rng.integers(BLOCKS))) for part in range(3 * half, 3 * half + 3)]
            for half in (0, 1)
        ]  # fmt: skip
        return Architecture(tuple(itertools.chain(*halves)))

    nets, test = [net() for _ in range(120)], [net() for _ in range(80)]
    estimate = taught(rng, nets, lambda a: -500 + quality(weights, a), 5.0)
    true = [-500 + quality(weights, a) for a in test]
    assert kendalltau(estimate.predict(test)[0], true).statistic > 0.9


def test_a_draw_is_solved_over_all_pairings() -> None:
    rng = np.random.default_rng(10)
    weights = truth(rng)
    estimate = taught(rng, sample(rng, 60), lambda net: quality(weights, net), 0.005)
    options = [Option(c.span.start, c.span.stop, c, (1 + int(c.block[1:]),)) for c in weights]
    space = AdditiveSpace(options, 0, PARTS)
    drawn = estimate.draws([option.choice for option in options], 1, rng)[0]
    best = space.best(-drawn)[0]
    sums = design([best.architecture, *sample(rng, 200)], [o.choice for o in options]) @ drawn
    assert sums[0] == pytest.approx(-best.error)
    assert sums[0] >= sums.max() - 1e-12


def test_what_cannot_be_learnt_from_is_refused() -> None:
    net = architecture([0] * PARTS)
    estimate = AdditiveEstimate(PARTS)
    for quality_, noise in [(math.nan, 0.0), (0.9, math.inf), (0.9, -1.0)]:
        with pytest.raises(EstimateError, match="must be finite"):
            estimate.update(net, quality_, noise)
    with pytest.raises(EstimateError, match="unknown rung 'short'; available: final"):
        estimate.update(net, 0.9, rung="short")
    short = Architecture(net.choices[:2])
    with pytest.raises(EstimateError, match=r"covers 2 parts, the guide has 6"):
        estimate.update(short, 0.9)
    with pytest.raises(EstimateError, match="covers 2 parts"):
        estimate.predict([short])
    with pytest.raises(EstimateError, match="error of block 'b0' for part 0 is nan"):
        estimate.add_errors({choice(0, 0): math.nan})
    with pytest.raises(EstimateError, match="different rungs"):
        AdditiveEstimate(PARTS, rungs=("a", "a"))
    with pytest.raises(EstimateError, match="spread"):
        AdditiveEstimate(PARTS, spread=0.0)
    assert estimate.observations == ()


def test_capacities_rank_where_nothing_else_is_known_and_add_to_errors() -> None:
    errors = {choice(part, block): [0.1, 0.4][block] for part in range(PARTS) for block in (0, 1)}
    capacities = {
        c: [2.0, 1.0, 3.0][int(c.block[1])]
        for c in truth(np.random.default_rng(0))
        if c.block in ("b0", "b1", "b2")
    }
    nets = [architecture([block] * PARTS) for block in range(3)]

    def predicted(**known: object) -> list[float]:
        return AdditiveEstimate(PARTS, **known).predict(nets)[0].tolist()  # type: ignore[arg-type]

    alone, with_errors, both = (
        predicted(capacities=capacities),
        predicted(errors=errors),
        predicted(errors=errors, capacities=capacities),
    )
    assert alone[2] > alone[0] > alone[1]
    assert with_errors[0] > with_errors[2] > with_errors[1]  # 2 is assumed to be as usual
    summed = (np.array(alone) + with_errors) / math.sqrt(2)
    assert both == pytest.approx(summed)


def test_capacities_make_few_observations_worth_more() -> None:
    """Half of the truth is by capacity: predictions of new networks gain by knowing it."""
    gains = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        capacities = {c: float(rng.normal()) for c in truth(rng)}
        weights = {c: 0.01 * capacities[c] + w / 2 for c, w in truth(rng).items()}
        seen, others = sample(rng, 8), sample(rng, 60)
        wanted = [quality(weights, net) for net in others]
        found = [
            kendalltau(
                wanted,
                taught(
                    np.random.default_rng(seed),
                    seen,
                    lambda net, w=weights: quality(w, net),
                    1e-3,
                    capacities=known,
                ).predict(others)[0],
            ).statistic
            for known in (None, capacities)
        ]
        gains.append(found[1] - found[0])
    assert min(gains) > 0
