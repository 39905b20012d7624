"""Pareto label setting over a graph of states: partial sums that no other can beat any more."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter

import moocore  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from nas_theseus.errors import PairingError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_Rows = NDArray[np.intp]

_COARSER, _COARSEST = 0.01, 4.0
_CELLS = 2**16


@dataclass(frozen=True)
class Question:
    """What is asked of the costs of a graph's edges.

    Attributes:
        values: costs of the edges, shape (C, E), not negative.
        objectives: which of them the front minimises, shape (C,).
        lower, upper: limits on a path's sums, shape (C,), infinite where there is none.
        hard: whether paths that miss a limit are left out; else they are compared by how far.
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
        """The same, and each path's sum of the distances, shape (E,), must reach `least`."""
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
        before: number, over all states, of the label that it continues, shape (N,).
        offset: number of the first label.
    """

    errors: Floats
    costs: Integers
    edges: Integers
    before: Integers
    offset: int = 0

    def take(self, rows: _Rows) -> _Labels:
        """The labels of some rows."""
        return replace(
            self, errors=self.errors[rows], costs=self.costs[:, rows],
            edges=self.edges[rows], before=self.before[rows],
        )  # fmt: skip


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
    """Edges between states, those on a path from start to stop.

    The front over paths is found by label setting: states in topological order, each with the
    non-dominated partial paths that reach it (Hansen 1980, "Bicriterion path problems"; Martins
    1984). What is dominated in a state stays so whatever follows, hence the front is exact while
    epsilon is 0, for any number of costs.

    With epsilon, costs are compared rounded down to powers of 1 + δ, (1 + δ)ⁿ = 1 + epsilon for
    paths of at most n edges (Warburton 1987; Papadimitriou & Yannakakis 2000); errors never are.
    What is rounded is a label's cost with the cheapest rest (ours): the same bound, fewer labels.

    Args:
        edges: (tail, head) of each edge.
        start, stop: where paths begin and end.

    Raises:
        PairingError: no path leads from start to stop, or the states form a circle.
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
                f"blocks lead in a circle: {' -> '.join(map(str, error.args[1]))}; a block must "
                "end behind the part that it starts with"
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
                f"no row of blocks leads from {start} to {stop}: blocks reach {reached}; offer a "
                "block that leads on from there"
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
        """Least (np.minimum) or largest (np.maximum) sum of (C, E) from each state to the stop."""
        rest = {self.stop: np.zeros(len(values), dtype=np.int64)}
        for head in reversed(self._inlets):
            for tail, edges in self._inlets[head].items():
                sums = extreme.reduce(values[:, edges], axis=1) + rest[head]
                rest[tail] = extreme(rest[tail], sums) if tail in rest else sums
        return rest

    def front(
        self, errors: Floats, question: Question, epsilon: float, layers: int, max_labels: int
    ) -> Paths:
        """The first `layers` fronts of error, shape (E,) by edge, and objectives; may be empty.

        Args:
            max_labels: where a state has more of them, epsilon becomes 0.01 or is doubled.
        """
        while True:
            try:
                return self._front_at(errors, question, epsilon, layers, max_labels)
            except _TooManyLabels:
                epsilon = max(_COARSER, 2 * epsilon)

    def _front_at(
        self, errors: Floats, question: Question, epsilon: float, layers: int, max_labels: int
    ) -> Paths:
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
                return labels.take(_undominated(columns, layers))

            # Tail by tail first: all that leads to a state at once could be too much memory.
            room = (question.lower - most[state], question.upper - least[state])
            each = [
                sift(_continued(errors, question, known[tail], edges, room))
                for tail, edges in tails.items()
            ]
            labels = sift(_joined(each)) if len(each) > 1 else each[0]
            if len(labels.errors) > max_labels and epsilon <= _COARSEST:
                raise _TooManyLabels
            known[state] = replace(labels, offset=count)
            count += len(labels.errors)
        return _traced(list(known.values()), known[self.stop], epsilon)


class _TooManyLabels(Exception):
    """One state has more labels than allowed at this epsilon."""


def _traced(known: Sequence[_Labels], last: _Labels, epsilon: float) -> Paths:
    """The last labels by rising error, then costs, each traced back to the start."""
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
    """Every label of a tail with every edge that leads on from it, costs within the room (C,)."""
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
    """What labels of one state are compared by, less is better: error, costs, lower limits.

    Labels that cannot miss a lower limit any more (cost + least rest >= limit) are equal in it;
    until then a dearer one is better (ours).
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


def _undominated(columns: Sequence[Floats], layers: int) -> _Rows:
    """Rows of the first `layers` fronts, in order; the first of equal rows comes in first.

    A row that is left out has one in each layer that dominates or equals it. So k layers contain
    the k-skyband (Papadias et al. 2005) and are found in k passes.
    """
    if len(columns) == 1:
        return np.sort(np.argsort(columns[0], kind="stable")[:layers])
    rows, left, kept = np.arange(len(columns[0])), list(columns), []
    for layer in range(layers):
        top = _layer(left)
        kept.append(rows[top])
        if layer + 1 < layers:
            others = np.delete(np.arange(len(rows)), top)
            rows, left = rows[others], [column[others] for column in left]
    return np.sort(np.concatenate(kept))


def _layer(columns: Sequence[Floats]) -> _Rows:
    """Rows that no other dominates, one of equal ones."""
    if not len(columns[0]):
        return np.empty(0, dtype=np.intp)
    likely = _likely(columns)
    points = [column[likely] for column in columns]
    if len(points) == 2:
        return likely[_staircase(*points)]
    inside = moocore.is_nondominated(np.stack(points, axis=1), keep_weakly=False)
    return likely[np.flatnonzero(inside)]


def _likely(columns: Sequence[Floats]) -> _Rows:
    """Rows that a coarse grid cannot rule out: a cheap pass that leaves few to be sorted (ours).

    All columns but the first are put into the cells of a grid; a row is dominated if a cell that
    is lower in every one of them holds no more of the first.
    """
    first, rest = columns[0], columns[1:]
    side = max(1, int(min(_CELLS, len(first)) ** (1 / len(rest))))
    cells: Integers | int = 0
    for column in rest:
        low, high = column.min(), column.max()
        # Half a cell short, so that the highest value is in the last cell.
        scale = (side - 0.5) / (high - low) if high > low else 0.0
        cells = cells * (side + 1) + ((column - low) * scale).astype(np.int64) + 1
    best = np.full((side + 1) ** len(rest), np.inf)
    np.minimum.at(best, cells, first)
    grid = best.reshape((side + 1,) * len(rest))
    for axis in range(len(rest)):
        grid = np.minimum.accumulate(grid, axis=axis)
    # One cell back in every column: cells count from 1, so that this never leaves the grid.
    back = sum((side + 1) ** axis for axis in range(len(rest)))
    return np.flatnonzero(first < grid.ravel()[cells - back])


def _staircase(errors: Floats, costs: Floats) -> _Rows:
    """Rows that no other dominates in two columns; the first of equal ones."""
    order = np.lexsort((errors, costs))
    in_order = errors[order]
    inside = np.ones(len(order), dtype=bool)
    inside[1:] = in_order[1:] < np.minimum.accumulate(in_order)[:-1]
    return order[inside]
