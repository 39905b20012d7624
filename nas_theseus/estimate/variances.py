"""Variances of the additive estimate, learnt by maximising its evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, lapack  # type: ignore[import-untyped]
from scipy.optimize import minimize  # type: ignore[import-untyped]

_Floats = NDArray[np.float64]
_Integers = NDArray[np.int64]

# Prior medians of variances, relative to that among architectures, and deviations of their logs.
_PAIRS, _RESIDUAL, _NOISE = 0.2, 0.03, 0.1
_LOG_VARIANCE_DEVIATION, _LOG_SCALE_DEVIATION = 1.5, 0.5
_WIDEST = 4.0


@dataclass(frozen=True)
class Components:
    """Components of the covariance of n observations, in standard units.

    Attributes:
        quality, advantage, known_noise: y, z and own noise variance, shape (n,).
        rung: number of each observation's rung, shape (n,), below `rungs`.
        choices, pairs, same: shared choices, shared pairs and same architecture, shape (n, n).
    """

    quality: _Floats
    advantage: _Floats
    known_noise: _Floats
    rung: _Integers
    rungs: int
    choices: _Floats
    pairs: _Floats
    same: _Floats


@dataclass(frozen=True)
class Learnt:
    """Variances and scales, in units of the spread of quality among architectures.

    Attributes:
        choice, pair, residual: τ², π² (0 without pair terms) and κ² (0 while no architecture was
            measured twice, as it cannot be distinguished from noise then).
        noise: σ² of each rung, shape (R,).
        scale: s of each rung, shape (R,); 1 for the last.
        log_evidence: log p(y) without the priors of the variances; 0 without data.
        slope_mean, slope_variance: prior of β.
        offset_variance: prior of a rung's offset from its mean.
    """

    choice: float
    pair: float
    residual: float
    noise: _Floats
    scale: _Floats
    log_evidence: float = 0.0
    slope_mean: float = 0.5
    slope_variance: float = 1.0
    offset_variance: float = 9.0

    def widened(self, factor: float) -> Learnt:
        """All variances multiplied by a factor: the same means, wider intervals."""
        return replace(
            self,
            choice=self.choice * factor,
            pair=self.pair * factor,
            residual=self.residual * factor,
            noise=self.noise * factor,
            slope_variance=self.slope_variance * factor,
            offset_variance=self.offset_variance * factor,
        )

    def covariance(self, data: Components) -> _Floats:
        """K, shape (n, n)."""
        s = self.scale[data.rung]
        offsets = self.offset_variance * (data.rung[:, None] == data.rung)
        noise = np.diag(self.noise[data.rung] + data.known_noise)
        covariance: _Floats = np.outer(s, s) * self.shared(data) + offsets + noise
        return covariance

    def shared(self, data: Components) -> _Floats:
        """Covariance of g, shape (n, n)."""
        slopes = self.slope_variance * np.outer(data.advantage, data.advantage)
        sums = self.choice * data.choices + self.pair * data.pairs
        shared: _Floats = slopes + sums + self.residual * data.same
        return shared


@dataclass(frozen=True)
class Unknown:
    """One value to learn: its name, rung (for noise and scale) and prior of its logarithm."""

    name: str
    rung: int
    guess: float
    deviation: float


def learn(data: Components, parts: int, pairs: bool) -> Learnt:
    """Variances and scales that maximise evidence times prior; without data, the prior medians."""
    unknown = [Unknown("choice", 0, -math.log(parts), _LOG_VARIANCE_DEVIATION)]
    if data.same.sum() > len(data.quality):
        unknown.append(Unknown("residual", 0, math.log(_RESIDUAL), _LOG_VARIANCE_DEVIATION))
    for rung in np.unique(data.rung).tolist():
        unknown.append(Unknown("noise", rung, math.log(_NOISE), _LOG_VARIANCE_DEVIATION))
        if rung < data.rungs - 1:
            unknown.append(Unknown("scale", rung, 0.0, _LOG_SCALE_DEVIATION))
    start = Learnt(1 / parts, 0.0, 0.0, np.full(data.rungs, _NOISE), np.ones(data.rungs))
    count = len(data.quality)
    if not count:
        return start
    alone = _maximum(data, start, unknown)
    if not pairs or not data.pairs.any():
        return alone
    guess = Unknown("pair", 0, math.log(_PAIRS / parts), _LOG_VARIANCE_DEVIATION)
    paired = _maximum(data, start, [*unknown, guess])
    gain = paired.log_evidence - alone.log_evidence
    return paired if gain > 0.5 * math.log(count) else alone


def _maximum(data: Components, start: Learnt, unknown: Sequence[Unknown]) -> Learnt:
    guesses = np.array([one.guess for one in unknown])
    deviations = np.array([one.deviation for one in unknown])

    def loss(logs: _Floats) -> tuple[float, _Floats]:
        value, slope = negative_log_evidence(data, with_values(start, unknown, logs), unknown)
        away = (logs - guesses) / deviations
        return value + 0.5 * float(away @ away), slope + away / deviations

    reach = _WIDEST * deviations
    found = minimize(
        loss,
        guesses,
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(guesses - reach, guesses + reach, strict=True)),
    )
    best = with_values(start, unknown, found.x)
    return replace(best, log_evidence=-negative_log_evidence(data, best, ())[0])


def with_values(start: Learnt, unknown: Sequence[Unknown], logs: _Floats) -> Learnt:
    """`start` with the unknowns set to the exponentials of their logarithms."""
    noise, scale = start.noise.copy(), start.scale.copy()
    single = {"choice": start.choice, "pair": start.pair, "residual": start.residual}
    for one, value in zip(unknown, np.exp(logs).tolist(), strict=True):
        if one.name == "noise":
            noise[one.rung] = value
        elif one.name == "scale":
            scale[one.rung] = value
        else:
            single[one.name] = value
    return replace(start, noise=noise, scale=scale, **single)


def negative_log_evidence(
    data: Components, learnt: Learnt, unknown: Sequence[Unknown]
) -> tuple[float, _Floats]:
    """-log p(y) and its gradient in the logarithms of the unknowns.

    With K the covariance, r = y - s β₀ z and α = K⁻¹r: ½ rᵀα + ½ log|K| + ½ n log 2π; its
    derivative is ½ tr((K⁻¹ - ααᵀ) dK) + αᵀdr. Source: Rasmussen & Williams 2006, eq. 5.8 and 5.9.
    """
    s = learnt.scale[data.rung]
    missed = data.quality - s * learnt.slope_mean * data.advantage
    factor = np.linalg.cholesky(learnt.covariance(data))
    alpha = cho_solve((factor, True), missed)
    value = float(0.5 * missed @ alpha + np.log(np.diag(factor)).sum())
    value += 0.5 * len(missed) * math.log(2 * math.pi)
    if not unknown:
        return value, np.empty(0)
    lower, _ = lapack.dpotri(factor, lower=1)  # half of K⁻¹, the other half is 0
    weight = lower + np.tril(lower, -1).T - np.outer(alpha, alpha)
    scaled = np.outer(s, s) * weight
    parts = {"choice": data.choices, "pair": data.pairs, "residual": data.same}
    gradient = []
    for one in unknown:
        here = data.rung == one.rung
        if one.name == "noise":
            slope = 0.5 * learnt.noise[one.rung] * float(np.diag(weight)[here].sum())
        elif one.name == "scale":
            # The rung's rows and columns both change, hence no factor ½.
            slope = float((scaled * learnt.shared(data))[here].sum())
            slope -= float((alpha * s * learnt.slope_mean * data.advantage)[here].sum())
        else:
            variance = getattr(learnt, one.name)
            slope = 0.5 * variance * float((scaled * parts[one.name]).sum())
        gradient.append(slope)
    return value, np.array(gradient)
