"""Proposes the next architecture: Thompson sampling of fronts, then most expected gain for a price.

The gain is hypervolume, the price what training costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm  # type: ignore[import-untyped]
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.additive import AdditiveEstimate, as_learnt, as_measured
from nas_theseus.estimate.block_scores import capacities, errors_of
from nas_theseus.estimate.front import AdditiveSpace
from nas_theseus.estimate.pareto import front, improvements, minimised
from nas_theseus.estimate.space_graph import additive_space, log_unit
from nas_theseus.space.genome import Genome
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture, BlockChoice
from nas_theseus.values.rung import rungs_of

_Floats = NDArray[np.float64]
_Costs = Mapping[str, float]
# Architecture, quality as it is learnt, and rung.
_Seen = tuple[Architecture, float, str]

STARTUP = 5
_DRAWS, _LAYERS, _CANDIDATES, _MAX_LABELS = 4, 2, 200, 3_000
# Medians of five equally likely intervals of a standard normal distribution.
_QUANTILES = norm.ppf((np.arange(5) + 0.5) / 5)
_END = "end"
# Of what a trial costs: the part that does not depend on its network, in trainings of the guide.
_SAME_FOR_ALL = 0.05
# Controls the BLAS threads of the libraries loaded so far: NumPy and SciPy.
_THREADS = ThreadpoolController()


@dataclass(frozen=True)
class PastProposal:
    """Result so far of an architecture that was proposed before.

    Attributes:
        values: objectives and measured costs by name; None while it runs, if it failed or if it was
            refused.
        feasible: whether it keeps all constraints.
        running: whether its evaluation is unfinished.
        predicted: whether its quality is predicted, not measured; its costs are measured.
        rungs: quality at the rungs it reached, by rung name.
    """

    architecture: Architecture
    values: Mapping[str, float] | None = None
    feasible: bool = True
    running: bool = False
    predicted: bool = False
    rungs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Earlier:
    """The estimate of an earlier proposal, which goes on if only observations were added."""

    errors: Mapping[BlockChoice, float]
    rungs: Sequence[str]
    found: Sequence[_Seen]
    estimate: AdditiveEstimate


class Proposer:
    """Proposals for one search space, given the results of earlier proposals.

    The first `startup` proposals are taken from the front of one draw of the estimate: the
    architecture nearest to a target cost. The target costs are spread evenly over the cheaper half
    of the logarithmic range of costs. After that, Thompson sampling: the exact fronts of several
    posterior draws give candidates, and the one that adds most expected hypervolume to the front so
    far, for what its training costs, is proposed ("expected improvement per second", Snoek et al.
    2012). Training costs as much as the MACs of an architecture, and besides a share of the guide's
    that is the same for all. Running architectures count in that front with their expected quality
    ("kriging believer", Ginsbourger et al. 2010).

    Measured costs are not sums over blocks. Fronts are solved for MACs instead, and candidates are
    judged by an additive estimate of each measured cost, learnt from trials. Fronts are also solved
    for MACs instead of an additive cost of which more is better; candidates are judged by its true
    sum.

    Args:
        reference: worst value that counts, by objective. Default for an objective: the most
            expensive architecture's cost, or the worst result.
        errors: returns the known block errors by choice; called at every proposal. Kept guide
            parts have none.
        startup: number of proposals before the estimate decides.
        spread: rough standard deviation of quality among architectures (of its logarithm where
            less is better).
        known: whether an architecture has a result that may be missing from those passed to
            `propose`.

    Attributes:
        finished: proposals that a sampler has read, by keys of its own; they never change.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: CostTable,
        reference: Mapping[str, float] | None = None,
        errors: Callable[[], Mapping[BlockChoice, float]] = dict,
        startup: int = STARTUP,
        spread: float = 0.05,
        known: Callable[[Architecture], bool] = lambda _: False,
    ) -> None:
        self.space, self.genome = space, Genome(space)
        self._costs, self._errors, self._known = costs, errors, known
        self._startup, self._spread = startup, spread
        self._reference = dict(reference or {})
        self._quality = next(g for g in space.goals if g.name not in space.measures)
        additive = [goal for goal in space.goals if goal.name in space.additive]
        less = [goal.name for goal in additive if goal.direction == "minimize"]
        self._more = [goal.name for goal in additive if goal.direction == "maximize"]
        instead = ["macs"] if space.measured or self._more else []
        self._solved = list(dict.fromkeys([*less, *instead]))
        self._limits = [limit for limit in space.limits if limit.name in space.additive]
        self._earlier: _Earlier | None = None
        self.finished: dict[tuple[str, int], PastProposal | None] = {}

    @cached_property
    def _graph(self) -> AdditiveSpace:
        limited = (limit.name for limit in self._limits)
        names = dict.fromkeys([*self._solved, *self._more, *limited])
        return additive_space(self.space, self._costs, list(names), _MAX_LABELS)

    @cached_property
    def _choices(self) -> tuple[list[BlockChoice], NDArray[np.intp]]:
        """Every choice once, and for each option the number of its choice."""
        found: dict[BlockChoice, int] = {}
        numbers = [found.setdefault(o.choice, len(found)) for o in self._graph.options]
        return list(found), np.array(numbers, dtype=np.intp)

    @cached_property
    def _capacities(self) -> dict[BlockChoice, float]:
        return capacities(self.space, self._costs)

    def propose(self, past: Sequence[PastProposal], seed: int) -> Architecture | None:
        """The next architecture within the limits on additive costs; None if all were proposed.

        Raises:
            LimitError: no architecture keeps the limits.
        """
        # The matrices are small: more threads only slow a proposal down.
        with _THREADS.limit(limits=1, user_api="blas"):
            return self._proposed(past, np.random.default_rng(seed))

    def _proposed(
        self, past: Sequence[PastProposal], rng: np.random.Generator
    ) -> Architecture | None:
        taken = {one.architecture for one in past}
        estimate = self._estimate(past)
        choices, _ = self._choices
        if len(taken) < self._startup or not estimate.observations:
            drawn = estimate.draws(choices, 1, rng)[0]
            return self._spread_out(self._new(-drawn, taken), len(taken))
        found = self._new(-estimate.weights(choices), taken)
        for drawn in estimate.draws(choices, _DRAWS, rng):
            found |= self._new(-drawn, taken)
        candidates = list(found.items())
        if len(candidates) > _CANDIDATES:
            some = rng.choice(len(candidates), _CANDIDATES, replace=False)
            candidates = [candidates[i] for i in some]
        return self._most_gaining(candidates, past, estimate)

    def _estimate(self, past: Iterable[PastProposal]) -> AdditiveEstimate:
        errors = errors_of(self._errors(), self._choices[0], self.space)
        past = list(past)
        rungs = self._stopping_rungs(past)
        found = [seen for one in past for seen in self._seen(one, rungs)]
        earlier = self._earlier
        count = len(earlier.found) if earlier else 0
        if earlier is None or (errors, rungs, found[:count]) != (
            earlier.errors,
            earlier.rungs,
            earlier.found,
        ):
            parts, names = len(self.space.guide), (*rungs, _END)
            estimate = AdditiveEstimate(
                parts, errors, names, spread=self._spread, capacities=self._capacities
            )
            count = 0
        else:
            estimate = earlier.estimate
        for architecture, quality, rung in found[count:]:
            estimate.update(architecture, quality, rung=rung)
        self._earlier = _Earlier(errors, rungs, found, estimate)
        return estimate

    def _seen(self, one: PastProposal, rungs: Iterable[str]) -> Iterator[_Seen]:
        """What the estimate learns from a proposal."""
        for rung in rungs:
            if rung in one.rungs:
                yield one.architecture, as_learnt(one.rungs[rung], self._quality), rung
        if one.values is not None and not one.predicted:
            quality = as_learnt(one.values[self._quality.name], self._quality)
            yield one.architecture, quality, _END

    def _stopping_rungs(self, past: Iterable[PastProposal]) -> list[str]:
        """Rungs at which candidates were stopped; the others have a later, surer value."""
        rungs = [rung.name for rung in rungs_of(self.space.recipe, self._quality.name)]
        reached = [[r for r in rungs if r in one.rungs] for one in past if one.predicted]
        last = {names[-1] for names in reached if names}
        return [rung for rung in rungs if rung in last]

    def _new(self, errors: _Floats, taken: Collection[Architecture]) -> dict[Architecture, _Costs]:
        """New architectures, with costs, on the first fronts for errors of shape (choices,).

        Pair terms are left out here, as they would make the graph quadratic in the choices; they
        are included when candidates are judged.

        Each non-empty front has at least one member, so with one front more than there are taken
        architectures, a new one is found if any is left.
        """
        _, numbers = self._choices
        layers = _LAYERS
        while True:
            found = self._graph.front(errors[numbers], self._limits, self._solved, layers=layers)
            new: dict[Architecture, _Costs] = {
                one.architecture: one.costs
                for one in found
                if one.architecture not in taken and not self._known(one.architecture)
            }
            if new or layers > len(taken):
                return new
            layers *= 8

    def _spread_out(self, found: Mapping[Architecture, _Costs], turn: int) -> Architecture | None:
        """The architecture nearest to this turn's target cost."""
        if not found or not self._solved:
            return next(iter(found), None)
        name = self._solved[turn % len(self._solved)]
        low, high = map(float, self._costs.range(name))
        for limit in self._limits:
            if limit.name == name and limit.operator == "<=":
                high = min(high, limit.limit)
            elif limit.name == name:
                low = max(low, limit.limit)
        high = min(high, self._reference.get(name, high))
        share = cheap_half(turn, max(1, self._startup))
        unit = log_unit(*map(float, self._costs.range(name)))
        low, high = math.log1p(low / unit), math.log1p(high / unit)
        wanted = low + share * (high - low)
        return min(found, key=lambda each: abs(math.log1p(found[each][name] / unit) - wanted))

    def _most_gaining(
        self,
        candidates: Sequence[tuple[Architecture, _Costs]],
        past: Sequence[PastProposal],
        estimate: AdditiveEstimate,
    ) -> Architecture | None:
        """The candidate that adds most expected hypervolume for its price.

        Of equal ones, the most uncertain.
        """
        if not candidates:
            return None
        running = [one.architecture for one in past if one.running]
        architectures = [architecture for architecture, _ in candidates] + running
        costs = [dict(known) for _, known in candidates]
        costs += [self._costs.of(architecture).known() for architecture in running]
        mean, deviation = estimate.predict(architectures)
        for name in self.space.measured:
            for known, value in zip(costs, self._expected(name, architectures, past), strict=True):
                known[name] = value
        count = len(candidates)
        measured = [one for one in past if one.feasible and not one.predicted]
        points_known = [one.values for one in measured if one.values]
        points_known += map(self._with_quality, costs[count:], mean[count:].tolist())
        reference = self._worst(past)
        best_known = self._points(points_known)
        best_known = best_known[front(best_known)]

        keeping = [i for i in range(count) if not self._broken(costs[i])] or list(range(count))
        points = self._of_quantiles([costs[i] for i in keeping], mean[keeping], deviation[keeping])
        prices = self._prices([candidates[i] for i in keeping])
        # The gain rises with quality, so the gain at the highest quantile bounds the expected gain.
        most = improvements(points[:, -1], best_known, reference) / prices
        order: list[int] = np.lexsort((deviation[keeping], most))[::-1].tolist()
        best, most_expected = order[0], 0.0
        for i in order:
            if most[i] <= most_expected:
                break
            gain = float(np.mean(improvements(points[i], best_known, reference)))
            expected = gain / float(prices[i])
            if expected > most_expected:
                best, most_expected = i, expected
        return architectures[keeping[best]]

    def _of_quantiles(self, costs: Sequence[_Costs], mean: _Floats, deviation: _Floats) -> _Floats:
        """Points of architectures at each quantile of their qualities, shape (N, quantiles, M)."""
        goal = self._quality
        qualities = mean[:, None] + deviation[:, None] * _QUANTILES
        points = self._points(list(map(self._with_quality, costs, mean.tolist())))
        points = np.repeat(points[:, None], len(_QUANTILES), axis=1)
        turned = [
            minimised(as_measured(q, goal), goal, "a proposal") for q in qualities.ravel().tolist()
        ]
        points[:, :, self.space.goals.index(goal)] = np.reshape(turned, qualities.shape)
        return points

    def _prices(self, candidates: Sequence[tuple[Architecture, _Costs]]) -> _Floats:
        """What training each candidate costs, in trainings of the guide, shape (N,)."""
        macs = [
            known["macs"] if "macs" in known else self._costs.of(architecture).macs
            for architecture, known in candidates
        ]
        return np.array(macs) / self._costs.of_parts().macs + _SAME_FOR_ALL

    def _broken(self, costs: _Costs) -> bool:
        return any(limit.violation(costs) > 0 for limit in self.space.limits)

    def _expected(
        self, name: str, architectures: Sequence[Architecture], past: Sequence[PastProposal]
    ) -> list[float]:
        """Predictions of a measured cost for each architecture, by its own additive estimate."""
        known = {o.architecture: o.values[name] for o in past if o.values and name in o.values}
        if not known:
            return [1.0] * len(architectures)
        macs = self._graph.cost_names.index("macs")
        errors = {option.choice: float(option.costs[macs]) for option in self._graph.options}
        usual = float(np.mean(list(known.values())))
        estimate = AdditiveEstimate(len(self.space.guide), errors, level=-usual, spread=usual / 2)
        for architecture, value in known.items():
            estimate.update(architecture, -value)
        least = min(known.values()) / 10  # a predicted sum of weights may be negative
        return [max(-float(value), least) for value in estimate.predict(architectures)[0]]

    def _with_quality(self, costs: _Costs, quality: float) -> _Costs:
        return {**costs, self._quality.name: as_measured(quality, self._quality)}

    def _points(self, values: Sequence[Mapping[str, float]]) -> _Floats:
        """Objectives to minimise, shape (N, M)."""
        columns = [
            [minimised(each[goal.name], goal, "a proposal") for each in values]
            for goal in self.space.goals
        ]
        return np.array(columns, dtype=np.float64).T

    def _worst(self, past: Iterable[PastProposal]) -> _Floats:
        """The hypervolume's reference point, shape (M,); limits tighten it."""
        known = [one for one in past if one.values]
        known = [one for one in known if not one.predicted] or known
        worst: dict[str, float] = {}
        for goal in self.space.goals:
            name, sign = goal.name, 1.0 if goal.direction == "minimize" else -1.0
            seen = [one.values[name] for one in known if one.values]
            if name in self._reference:
                worst[name] = self._reference[name]
            elif name in self.space.additive:
                worst[name] = float(self._costs.range(name)[1 if sign > 0 else 0])
            else:
                worst[name] = max(seen, key=lambda value: sign * value)
            for limit in self.space.limits:
                if limit.name == name and sign * (limit.limit - worst[name]) < 0:
                    worst[name] = limit.limit
        reference: _Floats = self._points([worst])[0]
        return reference


def cheap_half(turn: int, turns: int) -> float:
    """The share of the cost range to target at a turn: first 0, then one half, then in between.

    Training an expensive network costs most, so none is trained before cheap ones have shown what
    blocks are worth.
    """
    place, steps = turn % turns, max(1, turns - 1)
    step = steps if place == 1 else max(0, place - 1)
    return step / steps / 2
