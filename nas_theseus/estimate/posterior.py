"""Posterior of the additive estimate: one-hot features, predictions, weights and draws of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve  # type: ignore[import-untyped]

from nas_theseus.estimate.variances import Components, Learnt
from nas_theseus.values.architecture import Architecture, BlockChoice
from nas_theseus.values.ids import derive_seed

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Observation:
    """One measured quality, more is better; `noise` is the known part of its standard deviation."""

    architecture: Architecture
    quality: float
    noise: float
    rung: str


@dataclass(frozen=True)
class Standard:
    """Quality in standard units: (quality - level of its rung) / spread; levels in rung order."""

    spread: float
    levels: tuple[float, ...]


class Draw:
    """Weights drawn from their joint posterior, in quality's units.

    Weights of choices that were never observed are drawn from their prior on access; the order of
    access does not change them.
    """

    def __init__(
        self,
        level: float,
        slope: float,
        seed: int,
        deviation: Mapping[type, float],
        known: Mapping[Hashable, float],
        advantage: Mapping[BlockChoice, float],
    ) -> None:
        self.level = level
        self._slope, self._seed, self._deviation = slope, seed, deviation
        self._known, self._advantage = known, advantage

    def weight(self, choice: BlockChoice) -> float:
        """What a choice adds to quality."""
        own = self._slope * self._advantage.get(choice, 0.0)
        return own + self._part(choice, self._deviation[BlockChoice])

    def pair(self, before: BlockChoice, choice: BlockChoice) -> float:
        """What two neighbours add beyond their own weights; 0 if the model has no pair terms."""
        return self._part((before, choice), self._deviation[tuple])

    def errors(self, choices: Sequence[BlockChoice]) -> _Floats:
        """Additive errors of options without their pairs, shape (C,)."""
        known, better = self._known, self._advantage
        own = np.array([better.get(choice, 0.0) for choice in choices])
        # Most were observed; others are drawn one by one.
        parts = [known.get(choice) for choice in choices]
        deviation = self._deviation[BlockChoice]
        filled = [
            self._part(choice, deviation) if part is None else part
            for choice, part in zip(choices, parts, strict=True)
        ]
        found: _Floats = -self._slope * own - np.array(filled)
        return found

    def error(self, choice: BlockChoice, before: BlockChoice | None = None) -> float:
        """Additive error of an option: less quality is more error."""
        paired = self.pair(before, choice) if before is not None else 0.0
        return -self.weight(choice) - paired

    def quality(self, architecture: Architecture) -> float:
        """The level plus all weights, without the part that no sum over blocks explains."""
        choices = architecture.choices
        pairs = sum(self.pair(*pair) for pair in itertools.pairwise(choices))
        return self.level + sum(map(self.weight, choices)) + pairs

    def _part(self, key: Hashable, deviation: float) -> float:
        if key in self._known:
            return self._known[key]
        if not deviation:
            return 0.0
        return (
            deviation * np.random.default_rng(derive_seed(self._seed, repr(key))).standard_normal()
        )


class Rows:
    """Observations as arrays in standard units: n rows."""

    def __init__(
        self,
        observations: Sequence[Observation],
        rungs: Sequence[str],
        scale: Standard,
        advantage: Mapping[BlockChoice, float],
    ) -> None:
        self.architectures = [o.architecture for o in observations]
        self.choices = _columns(c for a in self.architectures for c in a.choices)
        self.pairs = _columns(p for a in self.architectures for p in itertools.pairwise(a.choices))
        self.same = _columns(self.architectures)
        self.rung = np.array([rungs.index(o.rung) for o in observations], dtype=np.int64)
        quality = np.array([o.quality for o in observations], dtype=np.float64)
        self.phi, self.psi, self.one = self.features(self.architectures)
        self.components = Components(
            quality=(quality - np.array(scale.levels)[self.rung]) / scale.spread,
            advantage=_summed(self.architectures, advantage),
            rung=self.rung,
            rungs=len(rungs),
            known_noise=np.array([(o.noise / scale.spread) ** 2 for o in observations]),
            choices=self.phi @ self.phi.T,
            pairs=self.psi @ self.psi.T,
            same=self.one @ self.one.T,
        )

    def features(self, architectures: Sequence[Architecture]) -> tuple[_Floats, _Floats, _Floats]:
        """One-hot over observed choices, pairs and architectures; others have no column."""
        return (
            _one_hot([a.choices for a in architectures], self.choices),
            _one_hot([itertools.pairwise(a.choices) for a in architectures], self.pairs),
            _one_hot([[a] for a in architectures], self.same),
        )


def _columns(keys: Iterable[Hashable]) -> dict[Hashable, int]:
    return {key: column for column, key in enumerate(dict.fromkeys(keys))}


def _one_hot(rows: Sequence[Iterable[Hashable]], columns: Mapping[Hashable, int]) -> _Floats:
    """Shape (len(rows), len(columns))."""
    found = np.zeros((len(rows), len(columns)))
    for row, keys in enumerate(rows):
        for key in keys:
            if key in columns:
                found[row, columns[key]] = 1.0
    return found


def _summed(
    architectures: Sequence[Architecture], advantage: Mapping[BlockChoice, float]
) -> _Floats:
    sums = [sum(advantage.get(c, 0.0) for c in a.choices) for a in architectures]
    return np.array(sums, dtype=np.float64)


class Posterior:
    """Posterior given observations and learnt variances; in standard units internally."""

    def __init__(
        self, rows: Rows, learnt: Learnt, scale: Standard, advantage: Mapping[BlockChoice, float]
    ) -> None:
        self.learnt, self.scale = learnt, scale
        self._rows, self._advantage = rows, advantage
        data = rows.components
        self._s = learnt.scale[data.rung]
        self._factor = (
            cho_factor(learnt.covariance(data), lower=True) if len(data.quality) else None
        )
        self._alpha = self._solve(data.quality - self._s * learnt.slope_mean * data.advantage)
        self._last = (data.rung == data.rungs - 1).astype(np.float64)

    def _solve(self, right: _Floats) -> _Floats:
        return cho_solve(self._factor, right) if self._factor is not None else right

    def predict(self, architectures: Sequence[Architecture]) -> tuple[_Floats, _Floats]:
        learnt, data = self.learnt, self._rows.components
        phi, psi, one = self._rows.features(architectures)
        z = _summed(architectures, self._advantage)
        shared = learnt.slope_variance * np.outer(z, data.advantage)
        shared += learnt.choice * phi @ self._rows.phi.T + learnt.pair * psi @ self._rows.psi.T
        shared += learnt.residual * one @ self._rows.one.T
        cross = self._s * shared + learnt.offset_variance * self._last
        blocks = np.array([len(a.choices) for a in architectures], dtype=np.float64)
        prior = learnt.offset_variance + learnt.slope_variance * z**2 + learnt.residual
        prior = prior + learnt.choice * blocks + learnt.pair * (blocks - 1)
        mean = learnt.slope_mean * z + cross @ self._alpha
        variance = prior - np.einsum("ij,ji->i", cross, self._solve(cross.T))
        spread, level = self.scale.spread, self.scale.levels[-1]
        return level + spread * mean, spread * np.sqrt(np.maximum(variance, 0.0))

    def weights(self, choices: Sequence[BlockChoice]) -> tuple[_Floats, _Floats]:
        learnt, data = self.learnt, self._rows.components
        z = np.array([self._advantage.get(choice, 0.0) for choice in choices])
        phi = _one_hot([[choice] for choice in choices], self._rows.choices)
        cross = learnt.slope_variance * np.outer(z, data.advantage)
        cross = self._s * (cross + learnt.choice * phi @ self._rows.phi.T)
        columns = _columns(choices)
        place = np.array([columns[choice] for choice in choices], dtype=np.int64)
        same = np.equal.outer(place, place)
        prior = learnt.slope_variance * np.outer(z, z) + learnt.choice * same
        covariance = prior - cross @ self._solve(cross.T)
        mean = learnt.slope_mean * z + cross @ self._alpha
        return self.scale.spread * mean, self.scale.spread**2 * (covariance + covariance.T) / 2

    def draw(self, rng: np.random.Generator) -> Draw:
        """Matheron's rule: a draw from the prior, corrected by its residuals on the data."""
        learnt, rows, data = self.learnt, self._rows, self._rows.components
        slope = learnt.slope_mean + math.sqrt(learnt.slope_variance) * rng.standard_normal()
        offsets = math.sqrt(learnt.offset_variance) * rng.standard_normal(data.rungs)
        u = math.sqrt(learnt.choice) * rng.standard_normal(len(rows.choices))
        p = math.sqrt(learnt.pair) * rng.standard_normal(len(rows.pairs))
        delta = math.sqrt(learnt.residual) * rng.standard_normal(len(rows.same))
        noise = np.sqrt(learnt.noise[data.rung] + data.known_noise)
        seen = self._s * (slope * data.advantage + rows.phi @ u + rows.psi @ p + rows.one @ delta)
        seen = seen + offsets[data.rung] + noise * rng.standard_normal(len(noise))
        missed = self._solve(data.quality - seen)
        scaled = self._s * missed
        slope += float(learnt.slope_variance * data.advantage @ scaled)
        u = u + learnt.choice * rows.phi.T @ scaled
        p = p + learnt.pair * rows.psi.T @ scaled
        offset = float(offsets[-1] + learnt.offset_variance * self._last @ missed)
        spread, level = self.scale.spread, self.scale.levels[-1]
        known = dict(zip(rows.choices, (spread * u).tolist(), strict=True))
        known |= dict(zip(rows.pairs, (spread * p).tolist(), strict=True))
        return Draw(
            level + spread * offset,
            spread * slope,
            int(rng.integers(2**31)),
            {
                BlockChoice: spread * math.sqrt(learnt.choice),
                tuple: spread * math.sqrt(learnt.pair),
            },
            known,
            self._advantage,
        )
