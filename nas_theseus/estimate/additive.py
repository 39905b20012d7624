"""Bayesian additive estimate of quality, learnt from finished trials, rungs and block errors.

For an architecture a with choices c and neighbours (c, d), measured at rung r,

    y = o_r + s_r · g(a) + noise,    g(a) = Σ w_c + Σ p_cd + δ_a,    w_c = β · z_c + u_c,
    u_c ~ N(0, τ²),  p_cd ~ N(0, π²),  δ_a ~ N(0, κ²),  noise ~ N(0, σ_r² + its own²).

z_c is how far a block's error lies below the usual one, and its capacity above, β the effect of
that on quality, and u_c the block's effect beyond. δ_a is the part of an architecture's quality
that no sum over blocks explains; all measurements of the architecture share it. Each rung has an
offset o_r and a scale s_r (1 at the last rung), so that cheap rungs inform the last. All linear
terms are integrated out, which leaves a Gaussian process whose kernel counts shared choices,

    K = s sᵀ ∘ (v z zᵀ + τ² Φ Φᵀ + π² Ψ Ψᵀ + κ² [same]) + v_o [same rung] + diag(σ_r² + own²),

with Φ and Ψ one-hot over choices and pairs. Variances and scales maximise its evidence (MacKay
1992, "Bayesian interpolation"; Rasmussen & Williams 2006, section 5.4.1) times wide log-normal
priors, which dominate while there are few data. The variances are then multiplied by ν / (ν - 2),
the variance of Student's t, since the scale was estimated from ν values. Thompson sampling (1933)
draws by Matheron's rule (Wilson et al. 2020, arXiv:2002.09309). The model of rungs and block errors
and all constants are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nas_theseus.errors import EstimateError
from nas_theseus.estimate.posterior import Columns, Observation, Posterior, Rows, Standard
from nas_theseus.estimate.variances import Learnt, learn
from nas_theseus.values.architecture import Architecture, BlockChoice
from nas_theseus.values.goals import Objective

_Floats = NDArray[np.float64]

_SPREAD_WEIGHT = 4.0
_TINY = 1e-12


class AdditiveEstimate:
    """Learns what each block choice adds to quality; also predicts without any observation.

    Up to 32 observations, variances are learnt from all of them. Beyond that they are learnt from
    the first ones only, at most 6 % fewer, so that they are not learnt anew after each trial.
    Which ones depends on the observations alone, not on when predictions are made.

    Args:
        parts: number of guide parts.
        errors: known errors of converted blocks by choice; less is better. A block without a known
            error is assumed to have the usual error for its number of parts.
        rungs: names of the fidelities, from cheap to reliable; predictions are for the last.
        level: quality expected before any observation.
        spread: rough standard deviation of quality among architectures; weighs as much as four
            trials.
        capacities: how much a block can learn in training, by choice; more is better
            (`block_scores.capacities`). Default: not known.
        pairs: whether to try terms for pairs of neighbouring choices. They stay in the model if
            they raise the log evidence by more than ½ log n (Schwarz 1978).

    Raises:
        EstimateError: no parts or rungs, a spread that is not positive, or errors not finite.
    """

    def __init__(
        self,
        parts: int,
        errors: Mapping[BlockChoice, float] | None = None,
        rungs: Sequence[str] = ("final",),
        level: float = 0.0,
        spread: float = 0.05,
        pairs: bool = True,
        capacities: Mapping[BlockChoice, float] | None = None,
    ) -> None:
        if parts < 1 or not rungs or len(set(rungs)) != len(rungs):
            raise EstimateError(
                f"an estimate needs at least one part and different rungs, not {parts} parts and "
                f"rungs {', '.join(rungs) or 'none'}"
            )
        if not (math.isfinite(level) and 0 < spread < math.inf):
            raise EstimateError(
                f"level {level} and spread {spread}: give a finite level, spread > 0"
            )
        self.parts, self.rungs = parts, tuple(rungs)
        self._level, self._spread, self._pairs = level, spread, pairs
        self._errors: dict[BlockChoice, float] = {}
        self._capable = advantages({c: -value for c, value in (capacities or {}).items()}, parts)
        self._observations: list[Observation] = []
        self._columns = Columns()
        self._learnt: tuple[int, Standard, Learnt] | None = None
        self._posterior: Posterior | None = None
        self.add_errors(errors or {})

    @property
    def observations(self) -> tuple[Observation, ...]:
        """All observations so far, in order."""
        return tuple(self._observations)

    @property
    def learnt(self) -> Learnt:
        """Variances and scales in use, in units of `spread`."""
        return self._fitted.learnt

    @property
    def spread(self) -> float:
        """Standard deviation of quality among architectures, in quality's units."""
        return self._fitted.scale.spread

    def add_errors(self, errors: Mapping[BlockChoice, float]) -> None:
        """Add block errors, or replace those of blocks that have one.

        Raises:
            EstimateError: an error is not finite.
        """
        for choice, error in errors.items():
            if not math.isfinite(error):
                raise EstimateError(
                    f"the error of block '{choice}' for {choice.span.text} is {error}; leave out "
                    "blocks that failed"
                )
        self._errors |= errors
        self._learnt = self._posterior = None

    def update(
        self,
        architecture: Architecture,
        quality: float,
        noise: float = 0.0,
        rung: str | None = None,
    ) -> None:
        """Learn from one finished trial.

        Args:
            quality: more is better (negate a perplexity).
            noise: known part of this measurement's standard deviation, for instance
                sqrt(p (1 - p) / N) for an accuracy p on N examples; the rest is learnt.
            rung: rung of the measurement. Default: the last.

        Raises:
            EstimateError: quality or noise is not finite, the rung is unknown, or the architecture
                does not cover the guide.
        """
        rung = self.rungs[-1] if rung is None else rung
        if rung not in self.rungs:
            raise EstimateError(f"unknown rung {rung!r}; available: {', '.join(self.rungs)}")
        if not (math.isfinite(quality) and 0 <= noise < math.inf):
            raise EstimateError(
                f"architecture {architecture.id} at {rung}: quality {quality}, noise {noise}; "
                "both must be finite, noise >= 0. Leave out failed trials"
            )
        self._check([architecture])
        self._observations.append(Observation(architecture, quality, noise, rung))
        self._columns.add(architecture)
        self._posterior = None

    def predict(self, architectures: Sequence[Architecture]) -> tuple[_Floats, _Floats]:
        """Mean and standard deviation of the true quality at the last rung, each of shape (N,).

        The deviation includes what no sum over blocks explains, but not measurement noise.

        Raises:
            EstimateError: an architecture does not cover the guide.
        """
        self._check(architectures)
        return self._fitted.predict(architectures)

    def weights(self, choices: Sequence[BlockChoice]) -> _Floats:
        """Posterior means of the choices' weights, shape (C,)."""
        return self._fitted.weights(choices)

    def draws(
        self, choices: Sequence[BlockChoice], count: int, rng: np.random.Generator
    ) -> _Floats:
        """Draws of the choices' weights from their joint posterior, shape (count, C).

        Args:
            choices: each once.
        """
        return self._fitted.draws(choices, count, rng)

    def _check(self, architectures: Iterable[Architecture]) -> None:
        for architecture in architectures:
            if architecture.stop != self.parts:
                raise EstimateError(
                    f"architecture {architecture.id} covers {architecture.stop} parts, the guide "
                    f"has {self.parts}"
                )

    @property
    def _fitted(self) -> Posterior:
        if self._posterior is None:
            advantage = together(advantages(self._errors, self.parts), self._capable)
            count = len(self._observations)
            step = 2 ** max(0, count.bit_length() - 5)
            first = self._observations[: count - count % step]
            if self._learnt is None or self._learnt[0] != len(first):
                scale = self._scale(first)
                rows = Rows(first, self._columns, self.rungs, scale, advantage)
                learnt = learn(rows.components, self.parts, self._pairs)
                freedom = _SPREAD_WEIGHT + len(first) - len({o.rung for o in first})
                self._learnt = (len(first), scale, learnt.widened(freedom / (freedom - 2)))
            _, scale, learnt = self._learnt
            rows = Rows(self._observations, self._columns, self.rungs, scale, advantage)
            self._posterior = Posterior(rows, learnt, scale, advantage)
        return self._posterior

    def _scale(self, observations: Sequence[Observation]) -> Standard:
        """Level of each rung and pooled spread within rungs, shrunk to the expected spread."""
        values = [[o.quality for o in observations if o.rung == rung] for rung in self.rungs]
        known = {place: float(np.mean(v)) for place, v in enumerate(values) if v}
        inside = sum((value - known[place]) ** 2 for place in known for value in values[place])
        freedom = len(observations) - len(known)
        spread = math.sqrt((_SPREAD_WEIGHT * self._spread**2 + inside) / (_SPREAD_WEIGHT + freedom))
        levels = []
        for place in range(len(self.rungs)):
            # A rung without data takes the level of the nearest rung with data.
            near = min(known, key=lambda other: abs(other - place), default=None)
            levels.append(self._level if near is None else known[near])
        return Standard(spread, tuple(levels))


def as_learnt(quality: float, goal: Objective) -> float:
    """Quality as the estimate learns it, more is better: a minimised metric as negative log."""
    return quality if goal.direction == "maximize" else -math.log(max(quality, _TINY))


def as_measured(learnt: float, goal: Objective) -> float:
    """The inverse of `as_learnt`."""
    return learnt if goal.direction == "maximize" else math.exp(-learnt)


def advantages(errors: Mapping[BlockChoice, float], parts: int) -> dict[BlockChoice, float]:
    """The usual error for a choice's parts minus its own; sums over networks vary by about 1."""
    if not errors:
        return {}
    usual = sum(errors.values()) / sum(len(choice.span) for choice in errors)
    better = {choice: usual * len(choice.span) - error for choice, error in errors.items()}
    unit = math.sqrt(sum(value**2 for value in better.values()) / len(better) * parts)
    return {choice: value / unit if unit > 0 else 0.0 for choice, value in better.items()}


def together(
    one: Mapping[BlockChoice, float], other: Mapping[BlockChoice, float]
) -> dict[BlockChoice, float]:
    """The sum of two advantages in the same unit; of one alone where the other knows nothing."""
    if not (one and other):
        return dict(one or other)
    unit = math.sqrt(2)
    return {
        choice: (one.get(choice, 0.0) + other.get(choice, 0.0)) / unit
        for choice in {**one, **other}
    }
