"""Which architecture to evaluate next: fronts of posterior draws, most expected hypervolume."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm  # type: ignore[import-untyped]
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.additive import AdditiveEstimate, as_learnt, as_measured
from nas_theseus.estimate.front import AdditiveSpace
from nas_theseus.estimate.pareto import front, hypervolume, minimised
from nas_theseus.estimate.rungs import rungs_of
from nas_theseus.estimate.space_graph import additive_space, log_unit
from nas_theseus.space.genome import Genome
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture, BlockChoice

_Floats = NDArray[np.float64]
_Costs = Mapping[str, float]

STARTUP = 8
_DRAWS, _LAYERS, _CANDIDATES, _MAX_LABELS = 4, 2, 200, 3_000
# Middles of equally likely pieces of a standard normal distribution.
_QUANTILES = norm.ppf((np.arange(5) + 0.5) / 5)
_END = "end"
# Of the libraries that are loaded by now: NumPy's and SciPy's.
_THREADS = ThreadpoolController()


@dataclass(frozen=True)
class Told:
    """What is known of an architecture that was proposed before.

    Attributes:
        values: its objectives and measured costs by name; None while it runs, if it failed or was
            refused.
        feasible: whether it keeps all constraints.
        running: whether its result is still to come.
        predicted: whether its quality is no measurement; its costs are.
        rungs: quality at the rungs that it reached, by their names.
    """

    architecture: Architecture
    values: Mapping[str, float] | None = None
    feasible: bool = True
    running: bool = False
    predicted: bool = False
    rungs: Mapping[str, float] = field(default_factory=dict)


class Proposer:
    """Proposals for one search space, from what was told of earlier ones.

    At first: the front of one draw of the estimate, and of it the architecture nearest to a cost;
    these costs are spread evenly over their logarithmic range, cheap ones first. Then Thompson
    sampling: the exact fronts of draws from the posterior give candidates, and the one is proposed
    that adds most expected hypervolume to the front so far, in which running ones count with what
    is expected of them ("kriging believer", Ginsbourger et al. 2010).

    Measured costs are no sums over blocks: candidates are solved for MACs in their stead, and
    judged by an additive estimate of each measured cost, which learns from trials too. MACs also
    stand for an additive cost of which more is better; candidates are judged by its true sum.

    Args:
        reference: worst values that count, by objective; of one that is left out, the dearest
            architecture's cost, or the worst that was told.
        errors: block errors by choice as far as known, asked for at every proposal; kept parts
            have none.
        startup: proposals before the estimate decides.
        spread: rough standard deviation of quality among architectures (of its logarithm where
            less is better).
        known: whether an architecture has a result, though that may not be told any more.
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

    def propose(self, told: Sequence[Told], seed: int) -> Architecture | None:
        """What to evaluate next, within the limits on additive costs; None if all of it is told.

        Raises:
            LimitError: no architecture keeps the limits.
        """
        # Its matrices are small: more threads only slow a proposal down.
        with _THREADS.limit(limits=1, user_api="blas"):
            return self._proposed(told, np.random.default_rng(seed))

    def _proposed(self, told: Sequence[Told], rng: np.random.Generator) -> Architecture | None:
        taken = {one.architecture for one in told}
        estimate = self._estimate(told)
        if len(taken) < self._startup or not estimate.observations:
            return self._spread_out(self._of_a_draw(estimate, taken, rng), len(taken))
        choices, _ = self._choices
        found = self._new(-estimate.weights(choices)[0], taken)
        for _ in range(_DRAWS):
            found |= self._of_a_draw(estimate, taken, rng)
        candidates = list(found.items())
        if len(candidates) > _CANDIDATES:
            some = rng.choice(len(candidates), _CANDIDATES, replace=False)
            candidates = [candidates[i] for i in some]
        return self._most_gaining(candidates, told, estimate)

    def _estimate(self, told: Iterable[Told]) -> AdditiveEstimate:
        errors = dict(self._errors())
        if errors:
            families = self.space.families
            errors |= {
                choice: 0.0 for choice in self._choices[0] if families[choice.block].preserves
            }
        told = list(told)
        rungs = self._stopping_rungs(told)
        names = (*rungs, _END)
        estimate = AdditiveEstimate(len(self.space.guide), errors, names, spread=self._spread)
        for one in told:
            for rung in rungs:
                if rung in one.rungs:
                    quality = as_learnt(one.rungs[rung], self._quality)
                    estimate.update(one.architecture, quality, rung=rung)
            if one.values is not None and not one.predicted:
                quality = as_learnt(one.values[self._quality.name], self._quality)
                estimate.update(one.architecture, quality)
        return estimate

    def _stopping_rungs(self, told: Iterable[Told]) -> list[str]:
        """Rungs that were the last of some: of the others, all have a surer value to learn from."""
        rungs = [rung.name for rung in rungs_of(self.space.recipe, self._quality.name)]
        reached = [[r for r in rungs if r in one.rungs] for one in told if one.predicted]
        last = {names[-1] for names in reached if names}
        return [rung for rung in rungs if rung in last]

    def _of_a_draw(
        self, estimate: AdditiveEstimate, taken: Collection[Architecture], rng: np.random.Generator
    ) -> dict[Architecture, _Costs]:
        """New ones on a draw's front, with costs.

        Terms of pairs are left out, as they would make the graph quadratic in the choices;
        candidates are judged with them.
        """
        draw = estimate.draw(rng)
        choices, _ = self._choices
        return self._new(np.array([draw.error(choice) for choice in choices]), taken)

    def _new(self, errors: _Floats, taken: Collection[Architecture]) -> dict[Architecture, _Costs]:
        """New ones, with costs, in the first fronts of errors, shape (choices,).

        A front that is not empty has a member: with one more front than are taken there is a new
        one, if any is left.
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
        """The one nearest to the cost whose turn it is."""
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
        share = cheap_first(turn, max(1, self._startup))
        unit = log_unit(*map(float, self._costs.range(name)))
        low, high = math.log1p(low / unit), math.log1p(high / unit)
        wanted = low + share * (high - low)
        return min(found, key=lambda each: abs(math.log1p(found[each][name] / unit) - wanted))

    def _most_gaining(
        self,
        candidates: Sequence[tuple[Architecture, _Costs]],
        told: Sequence[Told],
        estimate: AdditiveEstimate,
    ) -> Architecture | None:
        """The candidate that adds most expected hypervolume, the least known of equal ones."""
        if not candidates:
            return None
        running = [one.architecture for one in told if one.running]
        architectures = [architecture for architecture, _ in candidates] + running
        costs = [dict(known) for _, known in candidates]
        costs += [self._costs.of(architecture).known() for architecture in running]
        mean, deviation = estimate.predict(architectures)
        for name in self.space.measured:
            for known, value in zip(costs, self._expected(name, architectures, told), strict=True):
                known[name] = value
        count = len(candidates)
        measured = [one for one in told if one.feasible and not one.predicted]
        points = [self._point(one.values) for one in measured if one.values]
        points += map(self._of_quality, costs[count:], mean[count:])
        reference = self._worst(told)
        best_known = np.array(points).reshape(len(points), len(reference))
        best_known = best_known[front(best_known)]
        before = hypervolume(best_known, reference)

        def gain(index: int, quality: float) -> float:
            point = self._of_quality(costs[index], quality)
            return hypervolume(np.vstack([best_known, point]), reference) - before

        keeping = [i for i in range(count) if not self._broken(costs[i])] or list(range(count))
        # More quality never gains less: the most that is likely bounds what is expected.
        most = {i: gain(i, mean[i] + deviation[i] * _QUANTILES[-1]) for i in keeping}
        best, most_expected = max(keeping, key=lambda i: (most[i], deviation[i])), 0.0
        for i in sorted(keeping, key=most.__getitem__, reverse=True):
            if most[i] <= most_expected:
                break
            gains = [gain(i, mean[i] + deviation[i] * quantile) for quantile in _QUANTILES]
            if (expected := float(np.mean(gains))) > most_expected:
                best, most_expected = i, expected
        return architectures[best]

    def _broken(self, costs: _Costs) -> bool:
        return any(limit.violation(costs) > 0 for limit in self.space.limits)

    def _expected(
        self, name: str, architectures: Sequence[Architecture], told: Sequence[Told]
    ) -> list[float]:
        """A measured cost of each architecture, by an additive estimate of its own."""
        known = {o.architecture: o.values[name] for o in told if o.values and name in o.values}
        if not known:
            return [1.0] * len(architectures)
        macs = self._graph.cost_names.index("macs")
        errors = {option.choice: float(option.costs[macs]) for option in self._graph.options}
        usual = float(np.mean(list(known.values())))
        estimate = AdditiveEstimate(len(self.space.guide), errors, level=-usual, spread=usual / 2)
        for architecture, value in known.items():
            estimate.update(architecture, -value)
        least = min(known.values()) / 10  # a sum of weights may be negative
        return [max(-float(value), least) for value in estimate.predict(architectures)[0]]

    def _of_quality(self, costs: _Costs, quality: float) -> _Floats:
        return self._point({**costs, self._quality.name: as_measured(quality, self._quality)})

    def _point(self, values: Mapping[str, float]) -> _Floats:
        """Objectives to minimise, shape (M,)."""
        goals = self.space.goals
        return np.array([minimised(values[goal.name], goal, "a proposal") for goal in goals])

    def _worst(self, told: Iterable[Told]) -> _Floats:
        """The hypervolume's reference point, shape (M,); limits make it stricter."""
        known = [one for one in told if one.values]
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
        return self._point(worst)


def cheap_first(turn: int, turns: int) -> float:
    """The share of a range that is looked at in turn: its end, its middle, then upwards.

    Training a network costs as much as it does: the dearest are tried when the cheap ones have
    told what blocks are worth.
    """
    place, middle = turn % turns, turns // 2
    step = middle if place == 1 else place - 1 if 1 < place <= middle else place
    return step / turns
