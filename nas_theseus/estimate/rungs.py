"""Rungs: early stopping of candidates, and the predicted final quality of stopped ones.

Asynchronous successive halving (ASHA, Li et al. 2020, arXiv:1810.05934, algorithm 2, in the form
that stops instead of pausing), over several objectives: a candidate continues past a rung if it is
among the best 1/η of those that have reached the rung so far, by non-dominated rank and then by
hypervolume contribution (the order of SMS-EMOA, Beume et al. 2007). Ours: η = 2 where ASHA takes 3
or 4, since ranks may flip in training. The rung's front always continues. A rung stops candidates
only once five candidates have finished and its ranking agrees with their final ranking in three of
four pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau  # type: ignore[import-untyped]

from nas_theseus.estimate.additive import as_learnt, as_measured
from nas_theseus.estimate.pareto import as_minimised, contributions, ranks
from nas_theseus.values.goals import Constraint, Objective
from nas_theseus.values.outcomes import Evaluation
from nas_theseus.values.rung import Rung, qualities

ETA = 2
# Kendall's τ from which a rung is trusted: three of four pairs in the right order. τ is measured
# among candidates that no rung stopped, so it is too low rather than too high.
MIN_TAU = 0.5
MIN_FOR_TAU = 5
# How far the reference point lies beyond the worst value, as a share of the objective's range.
_MARGIN = 0.1


def standing(points: ArrayLike, row: int) -> tuple[int, int]:
    """Non-dominated rank of one point, and the number of points ranked before it.

    Within a rank, points are ordered by falling hypervolume contribution, with the reference point
    a tenth of the range beyond the worst values.

    Args:
        points: minimised objectives, shape (N, M).
        row: row of the point.

    Raises:
        ValueError: the shape is not (N, M), or a row is not finite.
    """
    found = np.array(ranks(points))
    array = np.asarray(points, dtype=np.float64)
    extent = np.ptp(array, axis=0)
    reference = array.max(axis=0) + _MARGIN * np.where(extent > 0, extent, 1.0)
    equals = np.flatnonzero(found == found[row])
    added = contributions(array[equals], reference)
    before = np.sum(found < found[row]) + np.sum(added > added[equals == row])
    return int(found[row]), int(before)


class RungRecord:
    """Values of a search's candidates at its rungs: decides who continues, predicts final quality.

    Args:
        rungs: rungs of the search's recipe.
        goals: objectives of the space; all are compared, with the metric measured at the rung.
        limits: constraints of the space; those on costs are enforced at every rung.
    """

    def __init__(
        self, rungs: Sequence[Rung], goals: Sequence[Objective], limits: Sequence[Constraint]
    ) -> None:
        self.rungs = {rung.name: rung for rung in rungs}
        self._goals, self._limits = tuple(goals), tuple(limits)
        self._points: dict[str, dict[str, NDArray[np.float64]]] = {name: {} for name in self.rungs}
        self._finished: dict[str, Evaluation] = {}

    def take(self, evaluation: Evaluation, *, finished: bool) -> None:
        """Record a candidate at the rungs it has reached, replacing its earlier record."""
        self.forget(evaluation.architecture.id)
        if self._breaks_limits(evaluation):
            return
        reached = qualities(evaluation, self.rungs.values())
        for name, quality in reached.items():
            metrics = {**evaluation.metrics, self.rungs[name].metric: quality}
            there = replace(evaluation, metrics=metrics)
            self._points[name][evaluation.architecture.id] = as_minimised([there], self._goals)[0]
        if finished and reached:
            self._finished[evaluation.architecture.id] = evaluation

    def forget(self, architecture: str) -> None:
        """Remove a candidate, such as one that failed."""
        for points in self._points.values():
            points.pop(architecture, None)
        self._finished.pop(architecture, None)

    def promotes(self, evaluation: Evaluation, rung: str) -> bool:
        """Whether a recorded candidate continues past a rung."""
        if self._breaks_limits(evaluation):
            return False
        if self.correlations().get(rung, 0.0) < MIN_TAU:
            return True
        # Sorted, so that sums are bit-equal after a restart.
        points = sorted(self._points[rung].items())
        names = [name for name, _ in points]
        row = names.index(evaluation.architecture.id)
        rank, before = standing(np.array([point for _, point in points]), row)
        return rank == 0 or before * ETA < len(points)

    def predict(self, evaluation: Evaluation, rung: str) -> float:
        """Predict a candidate's final metric from its metric at a rung.

        A line is fitted by least squares to the candidates that finished, with its slope limited to
        0 to 1: slope 1 adds their mean gain, a smaller slope means that worse candidates gain more.
        The prediction is at most the best final metric so far, as a line has no ceiling. If no
        candidate finished, the metric at the rung is returned. A perplexity is predicted in
        logarithms.

        Raises:
            ValueError: the candidate has not reached this rung.
        """
        quality = self.rungs[rung].quality(evaluation)
        if quality is None:
            raise ValueError(f"architecture {evaluation.architecture.id} has no value at {rung}")
        there, end = self._pairs(rung)
        if not len(there):
            return quality
        goal = self._goal(rung)
        spread = float(there.var())
        covariance = float(np.mean((there - there.mean()) * (end - end.mean())))
        slope = min(max(covariance / spread, 0.0), 1.0) if spread > 0 else 1.0
        ahead = as_learnt(quality, goal) - float(there.mean())
        return as_measured(min(float(end.mean()) + slope * ahead, float(end.max())), goal)

    def correlations(self) -> dict[str, float]:
        """Kendall's τ-b between each rung and the end, over all finished candidates, by rung.

        A rung is left out if fewer than five candidates finished, or all are equal. Stopped
        candidates are not included, so τ is measured among the better ones.
        """
        found = {}
        for name in self.rungs:
            there, end = self._pairs(name)
            if len(there) >= MIN_FOR_TAU and np.ptp(there) > 0 and np.ptp(end) > 0:
                found[name] = float(kendalltau(there, end).statistic)
        return found

    @property
    def finished(self) -> int:
        """Number of candidates that finished."""
        return len(self._finished)

    def _pairs(self, rung: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Quality of finished candidates at a rung and at the end, `as_learnt`, shapes (N,)."""
        place, goal = self.rungs[rung], self._goal(rung)
        finished = [self._finished[name] for name in sorted(self._finished)]
        pairs = [(place.quality(e), e.value(place.metric)) for e in finished]
        learnt = [(as_learnt(q, goal), as_learnt(end, goal)) for q, end in pairs if q is not None]
        there, end = np.array(learnt, dtype=np.float64).reshape(-1, 2).T
        return there, end

    def _goal(self, rung: str) -> Objective:
        return next(goal for goal in self._goals if goal.name == self.rungs[rung].metric)

    def _breaks_limits(self, evaluation: Evaluation) -> bool:
        """Whether a measured cost breaks a limit; quality does not count, it may still improve."""
        costs = evaluation.cost.known()
        return any(limit.violation(costs) > 0 for limit in self._limits)
