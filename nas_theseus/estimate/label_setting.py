"""Pareto label setting over a graph of states: keeps the partial paths that none dominates."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter

import numpy as np
from numpy.typing import NDArray

from nas_theseus.errors import PairingError
from nas_theseus.estimate.pareto import first_fronts

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_Rows = NDArray[np.intp]

_COARSER, _COARSEST = 0.01, 4.0
# So many labels of one tail wait for those of the other tails: one pass is cheaper than several.
_FEW = 1_000
_BEAM, _SWEEPS, _BISECTIONS, _STEEPEST = 300, 3, 25, 100.0


@dataclass(frozen=True)
class Question:
    """Objectives and limits on the costs of a graph's edges.

    Attributes:
        values: costs of the edges, shape (C, E), not negative.
        objectives: which of them the front minimises, shape (C,).
        lower, upper: limits on a path's sums, shape (C,), infinite where there is none.
        hard: whether paths that miss a limit are dropped; if not, they are compared by how far
            they miss it.
    """

    values: Integers
    objectives: NDArray[np.bool_]
    lower: Floats
    upper: Floats
    hard: bool = True

    @cached_property
    def compared(self) -> NDArray[np.bool_]:
        """Costs of which less is better: objectives, and those with an upper limit."""
        return self.objectives | np.isfinite(self.upper)

    def away_from(self, distances: Integers, least: int) -> Question:
        """The same question, requiring each path's distances, shape (E,), to sum to `least`."""
        return Question(
            np.vstack([self.values, distances]),
            np.append(self.objectives, False),
            np.append(self.lower, float(least)),
            np.append(self.upper, np.inf),
        )


@dataclass(frozen=True)
class _Labels:
    """Partial paths that end in one state.

    Attributes:
        errors: shape (N,).
        costs: shape (C, N).
        edges: number of the last edge, shape (N,); -1 at the start.
        before: number, over all states, of the label that each one extends, shape (N,).
        offset: number of the first label.
    """

    errors: Floats
    costs: Integers
    edges: Integers
    before: Integers
    offset: int = 0

    def take(self, rows: _Rows) -> _Labels:
        """The labels in the selected rows."""
        return replace(
            self,
            errors=self.errors[rows],
            costs=self.costs[:, rows],
            edges=self.edges[rows],
            before=self.before[rows],
        )


@dataclass(frozen=True)
class Paths:
    """Paths from start to stop by rising error.

    Attributes:
        errors: shape (N,).
        costs: shape (N, C).
        edges: numbers of the edges in order, shape (N, longest); -1 in front of shorter paths.
        epsilon: the precision of the costs that was used.
    """

    errors: Floats
    costs: Integers
    edges: Integers
    epsilon: float


class Graph:
    """Edges between states; only those on a path from start to stop.

    The front over paths is found by label setting: states in topological order, each with the
    non-dominated partial paths that reach it (Hansen 1980, "Bicriterion path problems"; Martins
    1984). A path that is dominated in a state stays dominated whatever follows, so the front is
    exact when epsilon is 0, for any number of costs.

    With epsilon, costs are rounded down to powers of 1 + δ before they are compared, where
    (1 + δ)ⁿ = 1 + epsilon for paths of at most n edges (Warburton 1987; Papadimitriou & Yannakakis
    2000); errors are never rounded. The rounded value is a label's cost plus that of its cheapest
    completion (ours), which keeps the same bound with fewer labels.

    Args:
        edges: (tail, head) of each edge.
        start, stop: where paths begin and end.

    Raises:
        PairingError: no path leads from start to stop, or the states form a cycle.
    """

    def __init__(
        self, edges: Sequence[tuple[Hashable, Hashable]], start: Hashable, stop: Hashable
    ) -> None:
        self.start, self.stop = start, stop
        sorter: TopologicalSorter[Hashable] = TopologicalSorter({stop: [], start: []})
        grouped: dict[Hashable, dict[Hashable, list[int]]] = {}
        for number, (tail, head) in enumerate(edges):
            sorter.add(head, tail)
            grouped.setdefault(head, {}).setdefault(tail, []).append(number)
        try:
            order = list(sorter.static_order())
        except CycleError as error:
            raise PairingError(
                f"blocks form a cycle: {' -> '.join(map(str, error.args[1]))}; a block must end "
                "after the part it starts with"
            ) from error
        behind, ahead = {start}, {stop}
        for state in order:
            if any(tail in behind for tail in grouped.get(state, ())):
                behind.add(state)
        for state in reversed(order):
            if state in ahead:
                ahead.update(grouped.get(state, ()))
        if stop not in behind or start == stop:
            reached = ", ".join(str(state) for state in order if state in behind)
            raise PairingError(
                f"no sequence of blocks leads from {start} to {stop}: blocks reach {reached}; add "
                "a block that continues from there"
            )
        open_states = behind & ahead
        #: For each state in topological order, the edges that lead to it by their tail.
        self._inlets = {
            head: {t: np.array(grouped[head][t]) for t in grouped[head] if t in open_states}
            for head in order
            if head in open_states and head != start
        }
        ones = np.ones((1, len(edges)), dtype=np.int64)
        self.longest = int(self.rest(ones, np.maximum)[start][0])

    def rest(self, values: Integers, extreme: np.ufunc) -> dict[Hashable, Integers]:
        """Least (np.minimum) or largest (np.maximum) path sum of (C, E) from each state to stop."""
        rest = {self.stop: np.zeros(len(values), dtype=np.int64)}
        for head in reversed(self._inlets):
            for tail, edges in self._inlets[head].items():
                sums = extreme.reduce(values[:, edges], axis=1) + rest[head]
                rest[tail] = extreme(rest[tail], sums) if tail in rest else sums
        return rest

    def count(self) -> int:
        """Number of paths from start to stop."""
        ways = {self.start: 1}
        for head, tails in self._inlets.items():
            ways[head] = sum(ways[tail] * len(edges) for tail, edges in tails.items())
        return ways[self.stop]

    def cheapest(self, values: Floats, costs: Integers) -> tuple[dict[Hashable, float], Integers]:
        """Least sum of values (E,) from each state, and costs (C,) of the path with least sum."""
        found = {self.stop: (0.0, np.zeros(len(costs), dtype=np.int64))}
        for head in reversed(self._inlets):
            rest, spent = found[head]
            for tail, edges in self._inlets[head].items():
                edge = edges[np.argmin(values[edges])]
                total = float(values[edge]) + rest
                if tail not in found or total < found[tail][0]:
                    found[tail] = (total, costs[:, edge] + spent)
        return {state: total for state, (total, _) in found.items()}, found[self.start][1]

    def front(
        self, errors: Floats, question: Question, epsilon: float, layers: int, max_labels: int
    ) -> Paths:
        """The first `layers` fronts of error, shape (E,) by edge, and objectives; may be empty.

        Args:
            max_labels: if a state has more labels, epsilon is set to 0.01 or doubled.

        Without objectives (the best few within limits), a beam search first finds good paths;
        labels whose Lagrangian bound is above those are then dropped (`Bound`), which is exact.
        """
        bound, ceiling = None, math.inf
        if question.hard and not question.objectives.any():
            bound = best_bound(self, errors, question)
            beam = self._front_at(errors, question, 0.0, layers, math.inf, bound, beam=_BEAM)
            if len(beam.errors) == layers:
                ceiling = float(beam.errors[-1])
        while True:
            try:
                return self._front_at(errors, question, epsilon, layers, max_labels, bound, ceiling)
            except _TooManyLabels:
                epsilon = max(_COARSER, 2 * epsilon)

    def _front_at(
        self,
        errors: Floats,
        question: Question,
        epsilon: float,
        layers: int,
        max_labels: float,
        bound: Bound | None = None,
        ceiling: float = math.inf,
        beam: int | None = None,
    ) -> Paths:
        """One pass; drops labels bounded above the ceiling, or all but the best `beam`."""
        least = self.rest(question.values, np.minimum)
        most = self.rest(question.values, np.maximum)
        step = math.log1p(epsilon) / self.longest
        none = np.full(1, -1, dtype=np.int64)
        nothing = np.zeros((len(question.values), 1), dtype=np.int64)
        known = {self.start: _Labels(np.zeros(1), nothing, none, none)}
        count = 1
        for state, tails in self._inlets.items():
            exact = question.hard and state == self.stop

            def sift(labels: _Labels, state: Hashable = state, exact: bool = exact) -> _Labels:
                if exact:
                    columns = [labels.errors, *labels.costs[question.objectives].astype(np.float64)]
                else:
                    columns = _columns(labels, question, least[state], step)
                labels = labels.take(first_fronts(columns, layers))
                if beam and bound and len(labels.errors) > beam:
                    labels = labels.take(np.argsort(bound.of(labels, state))[:beam])
                return labels

            # Many labels are sifted by tail: those of all tails may not fit into memory.
            room = (question.lower - most[state], question.upper - least[state])
            each = []
            for tail, edges in tails.items():
                labels = _continued(errors, question, known[tail], edges, room)
                if bound and ceiling < math.inf:
                    # With a tolerance, as the bound sums in another order.
                    hope = bound.of(labels, state) <= ceiling + 1e-9 * (1 + abs(ceiling))
                    labels = labels.take(np.flatnonzero(hope))
                many = len(tails) > 1 and len(labels.errors) > _FEW
                each.append(sift(labels) if many else labels)
            labels = sift(_joined(each))
            if len(labels.errors) > max_labels and epsilon <= _COARSEST:
                raise _TooManyLabels
            known[state] = replace(labels, offset=count)
            count += len(labels.errors)
        return _traced(list(known.values()), known[self.stop], epsilon)


@dataclass(frozen=True)
class Bound:
    """Lagrangian lower bound on the error of every completion that keeps the limits.

    With multipliers λ >= 0 for limits written as s (cost - limit) <= 0, where s is 1 for upper and
    -1 for lower limits: error + Σ λ s (cost - limit) + the least completion of error + Σ λ s cost.
    Source: Handler & Zang 1980, "A dual algorithm for the constrained shortest path problem".

    Attributes:
        weights: Σ λ s of each cost, shape (C,).
        constant: Σ λ s limit.
        rest: least completion from each state.
    """

    weights: Floats
    constant: float
    rest: Mapping[Hashable, float]

    def of(self, labels: _Labels, state: Hashable) -> Floats:
        """The bound of each label, shape (N,)."""
        return labels.errors + self.weights @ labels.costs + (self.rest[state] - self.constant)


def best_bound(graph: Graph, errors: Floats, question: Question) -> Bound:
    """The bound with multipliers found limit by limit, bisecting until the best path keeps it."""
    limits = [(row, 1.0, limit) for row, limit in enumerate(question.upper)]
    limits += [(row, -1.0, limit) for row, limit in enumerate(question.lower)]
    limits = [each for each in limits if math.isfinite(each[2])]
    multipliers = np.zeros(len(limits))

    def at(multipliers: Floats) -> tuple[Bound, Integers]:
        weights, constant = np.zeros(len(question.values)), 0.0
        for multiplier, (row, sign, limit) in zip(multipliers, limits, strict=True):
            weights[row] += multiplier * sign
            constant += multiplier * sign * limit
        rest, costs = graph.cheapest(errors + weights @ question.values, question.values)
        return Bound(weights, constant, rest), costs

    most = float(np.abs(errors).max()) * graph.longest
    for _ in range(_SWEEPS if len(limits) > 1 else 1):
        for place, (row, sign, limit) in enumerate(limits):
            high = _STEEPEST * most / max(float(question.values[row].max()), 1.0)
            low = multipliers[place] = 0.0
            for _ in range(_BISECTIONS):
                if sign * (at(multipliers)[1][row] - limit) > 0:
                    low = multipliers[place]
                elif multipliers[place] == 0:
                    break
                else:
                    high = multipliers[place]
                multipliers[place] = math.sqrt(max(low, 1e-9 * high) * high)
    return at(multipliers)[0]


class _TooManyLabels(Exception):
    """One state has more labels than allowed at this epsilon."""


def _traced(known: Sequence[_Labels], last: _Labels, epsilon: float) -> Paths:
    """Paths of the last labels by rising error, then costs, each traced back to the start."""
    order = np.lexsort((*last.costs[::-1], last.errors))
    edges = np.concatenate([labels.edges for labels in known])
    before = np.concatenate([labels.before for labels in known])
    at, columns = last.offset + order, []
    while (at > 0).any():
        columns.append(np.where(at > 0, edges[at], -1))
        at = np.where(at > 0, before[at], 0)
    rows = np.stack(columns[::-1], axis=1) if columns else np.empty((0, 0), dtype=np.int64)
    return Paths(last.errors[order], last.costs[:, order].T, rows, epsilon)


def _continued(
    errors: Floats, question: Question, labels: _Labels, edges: _Rows, room: tuple[Floats, Floats]
) -> _Labels:
    """Each label of a tail extended by each edge from it, if costs stay within the room (C,)."""
    count = len(labels.errors)
    costs = labels.costs[:, None] + question.values[:, edges][:, :, None]
    own = np.arange(labels.offset, labels.offset + count)
    every = _Labels(
        (labels.errors + errors[edges][:, None]).ravel(),
        costs.reshape(len(costs), count * len(edges)),
        np.repeat(edges, count),
        np.tile(own, len(edges)),
    )
    fits = np.ones(len(every.errors), dtype=bool)
    for row in np.flatnonzero(np.isfinite(room[0]) | np.isfinite(room[1])) if question.hard else ():
        fits &= (every.costs[row] >= room[0][row]) & (every.costs[row] <= room[1][row])
    return every if fits.all() else every.take(np.flatnonzero(fits))


def _joined(pieces: Sequence[_Labels]) -> _Labels:
    return _Labels(
        np.concatenate([piece.errors for piece in pieces]),
        np.concatenate([piece.costs for piece in pieces], axis=1),
        np.concatenate([piece.edges for piece in pieces]),
        np.concatenate([piece.before for piece in pieces]),
    )


def _columns(labels: _Labels, question: Question, least: Integers, step: float) -> list[Floats]:
    """Criteria that compare labels of one state, less is better: error, costs, lower limits.

    Labels that can no longer miss a lower limit (cost + least completion >= limit) count as equal
    in it; before that, the more expensive one is better (ours).
    """
    columns = [labels.errors]
    for row, costs in enumerate(labels.costs):
        value = (costs + least[row]).astype(np.float64)
        if step:
            value = np.floor(np.log(np.maximum(value, 0.5)) / step)
        if question.compared[row]:
            columns.append(value)
        safe = costs + least[row] >= question.lower[row]
        if not safe.all():
            columns.append(np.where(safe, 0.0, 1 + value.max() - value))
    return columns
