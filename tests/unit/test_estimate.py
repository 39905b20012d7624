"""The additive estimate against closed forms, and on simulated spaces whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import kendalltau

from nas_theseus.estimate import AdditiveEstimate
from nas_theseus.values import Architecture, BlockChoice, Span

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
    means, covariances = estimate.weights(choices)
    np.testing.assert_allclose(means, to_weights @ theta[1:], atol=1e-10)
    expected = to_weights @ covariance[1:, 1:] @ to_weights.T
    np.testing.assert_allclose(covariances, expected, atol=1e-10)


def test_draws_have_the_mean_and_covariance_of_the_posterior() -> None:
    rng = np.random.default_rng(1)
    weights = truth(rng)
    seen = sample(rng, 12, blocks=3)
    errors = {c: float(rng.uniform()) for c in weights}
    estimate = taught(rng, seen, lambda net: quality(weights, net), 0.005, errors=errors)
    choices = [choice(0, 0), choice(0, 1), choice(1, 0), choice(5, 4)]
    draws = [estimate.draw(rng) for _ in range(3000)]
    values = np.array([[draw.weight(c) for c in choices] for draw in draws])
    means, covariance = estimate.weights(choices)
    error = np.sqrt(np.diag(covariance) / len(draws))
    assert (abs(values.mean(axis=0) - means) < 4.5 * error).all()
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert (abs(np.cov(values.T) - covariance) < 0.1 * scale).all()

    net = seen[0]
    mean, _ = estimate.predict([net])
    drawn = np.array([draw.quality(net) for draw in draws])
    assert abs(drawn.mean() - mean[0]) < 4.5 * drawn.std() / math.sqrt(len(draws))
    one = draws[0]
    assert one.error(net.choices[0]) == -one.weight(net.choices[0])
    assert one.weight(choice(5, 4)) == one.weight(choice(5, 4)), "the same whenever asked"
    assert estimate.draw(np.random.default_rng(7)).quality(net) == estimate.draw(
        np.random.default_rng(7)
    ).quality(net)


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


@pytest.mark.parametrize(("count", "noise"), [(15, 0.01), (40, 0.01), (40, 0.05), (150, 0.02)])
def test_ninety_percent_intervals_cover_about_ninety_percent(count: int, noise: float) -> None:
    covered = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        weights = truth(rng)
        estimate = taught(rng, sample(rng, count), lambda net, w=weights: quality(w, net), noise)
        test = sample(rng, 100)
        mean, deviation = estimate.predict(test)
        true = np.array([quality(weights, net) for net in test])
        covered.append((abs(true - mean) < 1.645 * deviation).mean())
    assert 0.82 < np.mean(covered) < 0.97
