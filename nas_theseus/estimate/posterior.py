"""Posterior of the additive estimate: one-hot features, predictions, weights and draws of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular  # type: ignore[import-untyped]
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from nas_theseus.estimate.variances import Components, Learnt
from nas_theseus.values.architecture import Architecture, BlockChoice

_Floats = NDArray[np.float64]
_Numbers = Sequence[Sequence[int]]


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


class Columns:
    """Numbers choices, pairs of neighbours and architectures in the order that they are added."""

    def __init__(self) -> None:
        self.choices: dict[BlockChoice, int] = {}
        self._pairs: dict[tuple[int, int], int] = {}
        self._same: dict[Architecture, int] = {}
        self._choices_of: list[list[int]] = []
        self._pairs_of: list[list[int]] = []
        self._same_of: list[list[int]] = []

    def add(self, architecture: Architecture) -> None:
        """Number one more observation's architecture."""
        choices = [self.choices.setdefault(c, len(self.choices)) for c in architecture.choices]
        pairs = itertools.pairwise(choices)
        self._choices_of.append(choices)
        self._pairs_of.append([self._pairs.setdefault(pair, len(self._pairs)) for pair in pairs])
        self._same_of.append([self._same.setdefault(architecture, len(self._same))])

    def added(self, count: int) -> OneHot:
        """One-hot rows of the first architectures that were added."""
        return self._one_hot(
            self._choices_of[:count], self._pairs_of[:count], self._same_of[:count]
        )

    def of(self, architectures: Sequence[Architecture]) -> OneHot:
        """One-hot rows of any architectures."""
        choices = [[self.choices.get(c, -1) for c in a.choices] for a in architectures]
        pairs = [[self._pairs.get(pair, -1) for pair in itertools.pairwise(c)] for c in choices]
        return self._one_hot(choices, pairs, [[self._same.get(a, -1)] for a in architectures])

    def _one_hot(self, choices: _Numbers, pairs: _Numbers, same: _Numbers) -> OneHot:
        return OneHot(
            _one_hot(choices, len(self.choices)),
            _one_hot(pairs, len(self._pairs)),
            _one_hot(same, len(self._same)),
        )


@dataclass(frozen=True)
class OneHot:
    """One-hot rows of n architectures: Φ of their choices, Ψ of pairs, and of themselves.

    The last column of each is of everything that has no number.
    """

    choices: csr_array
    pairs: csr_array
    same: csr_array


def _one_hot(rows: _Numbers, columns: int) -> csr_array:
    """Shape (len(rows), columns + 1)."""
    places = np.array(list(itertools.chain.from_iterable(rows)), dtype=np.int32)
    places[places < 0] = columns
    starts = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return csr_array((np.ones(len(places)), places, starts), shape=(len(rows), columns + 1))


def _shared(some: csr_array, others: csr_array) -> _Floats:
    """How many columns rows have in common, shape (len(some), len(others))."""
    found: _Floats = (some @ others.T).toarray()
    return found


def _summed(
    architectures: Sequence[Architecture], advantage: Mapping[BlockChoice, float]
) -> _Floats:
    if not advantage:
        return np.zeros(len(architectures))
    sums = [sum(advantage.get(c, 0.0) for c in a.choices) for a in architectures]
    return np.array(sums, dtype=np.float64)


class Rows:
    """Observations as arrays in standard units: n rows.

    Args:
        columns: of these observations, and maybe of later ones.
    """

    def __init__(
        self,
        observations: Sequence[Observation],
        columns: Columns,
        rungs: Sequence[str],
        scale: Standard,
        advantage: Mapping[BlockChoice, float],
    ) -> None:
        self.columns, self.one_hot = columns, columns.added(len(observations))
        rung = np.array([rungs.index(o.rung) for o in observations], dtype=np.int64)
        quality = np.array([o.quality for o in observations], dtype=np.float64)
        self.components = Components(
            quality=(quality - np.array(scale.levels)[rung]) / scale.spread,
            advantage=_summed([o.architecture for o in observations], advantage),
            rung=rung,
            rungs=len(rungs),
            known_noise=np.array([(o.noise / scale.spread) ** 2 for o in observations]),
            choices=_shared(self.one_hot.choices, self.one_hot.choices),
            pairs=_shared(self.one_hot.pairs, self.one_hot.pairs),
            same=_shared(self.one_hot.same, self.one_hot.same),
        )


class Posterior:
    """Posterior given observations and learnt variances; in standard units internally."""

    def __init__(
        self, rows: Rows, learnt: Learnt, scale: Standard, advantage: Mapping[BlockChoice, float]
    ) -> None:
        self.learnt, self.scale = learnt, scale
        self._rows, self._advantage = rows, advantage
        data = rows.components
        self._s = learnt.scale[data.rung]
        self._factor = np.linalg.cholesky(learnt.covariance(data))
        self._alpha = self._solve(data.quality - self._s * learnt.slope_mean * data.advantage)
        self._last = (data.rung == data.rungs - 1).astype(np.float64)

    def _solve(self, right: _Floats) -> _Floats:
        """K⁻¹ times the right-hand side, shape (n,) or (n, K)."""
        found: _Floats = cho_solve((self._factor, True), right) if len(right) else right
        return found

    def predict(self, architectures: Sequence[Architecture]) -> tuple[_Floats, _Floats]:
        learnt, data, seen = self.learnt, self._rows.components, self._rows.one_hot
        new = self._rows.columns.of(architectures)
        z = _summed(architectures, self._advantage)
        shared = learnt.slope_variance * np.outer(z, data.advantage)
        shared += learnt.choice * _shared(new.choices, seen.choices)
        shared += learnt.pair * _shared(new.pairs, seen.pairs)
        shared += learnt.residual * _shared(new.same, seen.same)
        cross = self._s * shared + learnt.offset_variance * self._last
        blocks = np.array([len(a.choices) for a in architectures], dtype=np.float64)
        prior = learnt.offset_variance + learnt.slope_variance * z**2 + learnt.residual
        prior = prior + learnt.choice * blocks + learnt.pair * (blocks - 1)
        mean = learnt.slope_mean * z + cross @ self._alpha
        # With K = LLᵀ, the variance that the data explain is the squared length of L⁻¹k.
        known = solve_triangular(self._factor, cross.T, lower=True) if cross.size else cross.T
        variance = prior - np.einsum("ij,ij->j", known, known)
        spread, level = self.scale.spread, self.scale.levels[-1]
        return level + spread * mean, spread * np.sqrt(np.maximum(variance, 0.0))

    def weights(self, choices: Sequence[BlockChoice]) -> _Floats:
        learnt, data = self.learnt, self._rows.components
        scaled = self._s * self._alpha
        slope = learnt.slope_mean + learnt.slope_variance * (data.advantage @ scaled)
        seen = learnt.choice * (self._rows.one_hot.choices.T @ scaled)
        return self._of_choices(choices, slope, seen, np.zeros(len(choices)))

    def draws(
        self, choices: Sequence[BlockChoice], count: int, rng: np.random.Generator
    ) -> _Floats:
        """Matheron's rule: draws from the prior, corrected by their residuals on the data."""
        learnt, data, seen = self.learnt, self._rows.components, self._rows.one_hot

        def prior(variance: float | _Floats, size: int) -> _Floats:
            found: _Floats = np.sqrt(variance) * rng.standard_normal((count, size))
            return found

        slope = learnt.slope_mean + prior(learnt.slope_variance, 1)
        u, unseen = prior(learnt.choice, seen.choices.shape[1]), prior(learnt.choice, len(choices))
        p = prior(learnt.pair, seen.pairs.shape[1])
        delta = prior(learnt.residual, seen.same.shape[1])
        offsets = prior(learnt.offset_variance, data.rungs)[:, data.rung]
        noise = prior(learnt.noise[data.rung] + data.known_noise, len(data.rung))
        sums = u @ seen.choices.T + p @ seen.pairs.T + delta @ seen.same.T
        drawn = self._s * (slope * data.advantage + sums) + offsets + noise
        scaled = self._s * self._solve((data.quality - drawn).T).T
        slope = slope + learnt.slope_variance * (scaled @ data.advantage)[:, None]
        u = u + learnt.choice * (scaled @ seen.choices)
        return self._of_choices(choices, slope, u, unseen)

    def _of_choices(
        self,
        choices: Sequence[BlockChoice],
        slope: float | _Floats,
        seen: _Floats,
        unseen: _Floats,
    ) -> _Floats:
        """Weights in quality's units from the effects of seen choices, and of each if unseen."""
        places = np.array([self._rows.columns.choices.get(c, -1) for c in choices], dtype=np.int64)
        own, known = unseen.copy(), places >= 0
        own[..., known] = seen[..., places[known]]
        z = np.array([self._advantage.get(choice, 0.0) for choice in choices])
        found: _Floats = self.scale.spread * (slope * z + own)
        return found
