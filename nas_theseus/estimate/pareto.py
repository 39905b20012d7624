"""Dominance, fronts and hypervolume: of points, and of evaluations under objectives."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import moocore  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas_theseus.errors import EstimateError
from nas_theseus.values.goals import Constraint, Objective
from nas_theseus.values.outcomes import Evaluation

_Column = NDArray[np.float64]
_Rows = NDArray[np.intp]
_CELLS = 2**16
# Up to so many rows, a sort takes less time than a grid that makes it shorter.
_FEW = 2_000


def _points(points: ArrayLike, name: str = "points") -> NDArray[np.float64]:
    """Points as finite floats of shape (N, M).

    Raises:
        ValueError: the shape is not (N, M), or a row is not finite.
    """
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0 and array.ndim < 2:
        array = array.reshape(0, 1)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} must have shape (N, M) with M >= 1, not {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        row = int(bad[0])
        raise ValueError(
            f"row {row} of {name} is not finite: {array[row].tolist()} "
            f"({bad.size} such rows of {len(array)}); leave out failed candidates"
        )
    return array


def _within(
    points: ArrayLike, reference: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of shape (N, M) and their reference point of shape (M,).

    Raises:
        ValueError: shapes do not fit, or a value is not finite.
    """
    limit = _points(np.atleast_2d(np.asarray(reference, dtype=np.float64)), "reference")[0]
    array = _points(points)
    if len(array) and array.shape[1] != len(limit):
        raise ValueError(f"points have {array.shape[1]} objectives, the reference {len(limit)}")
    return array, limit


def dominates(a: ArrayLike, b: ArrayLike) -> bool:
    """Whether point `a` is nowhere worse (larger) than `b` and somewhere better; shapes (M,).

    Raises:
        ValueError: the points differ in length or are not finite.
    """
    first, second = np.atleast_1d(np.asarray(a)), np.atleast_1d(np.asarray(b))
    if first.shape != second.shape:
        raise ValueError(f"points to compare have shapes {first.shape} and {second.shape}")
    pair = _points(np.stack([first, second]))
    return bool((pair[0] <= pair[1]).all() and (pair[0] < pair[1]).any())


def front(points: ArrayLike) -> list[int]:
    """Indices of the points that no other dominates, in order; all of several equal points stay.

    Args:
        points: minimised objectives, shape (N, M).

    Raises:
        ValueError: the shape is not (N, M), or a row is not finite.
    """
    array = _points(points)
    if not len(array):
        return []
    return [int(i) for i in np.flatnonzero(moocore.is_nondominated(array, keep_weakly=True))]


def ranks(points: ArrayLike) -> list[int]:
    """Non-dominated rank of each point: 0 on the front, 1 on the front of the rest, and so on.

    Args:
        points: minimised objectives, shape (N, M).

    Raises:
        ValueError: the shape is not (N, M), or a row is not finite.

    Source: Deb et al. 2002 (NSGA-II), section III-A.
    """
    array = _points(points)
    return [int(rank) for rank in moocore.pareto_rank(array)] if len(array) else []


def first_fronts(columns: Sequence[_Column], layers: int) -> _Rows:
    """Rows of the first `layers` fronts of many points, in order; of equal rows, one per layer.

    Args:
        columns: minimised objectives, each finite and of shape (N,).

    For every row left out, each layer has a row that dominates or equals it. So k layers contain
    the k-skyband (Papadias et al. 2005) and are found in k passes.
    """
    if len(columns) == 1:
        return np.sort(np.argsort(columns[0], kind="stable")[:layers])
    if len(columns) == 2 and len(columns[0]) <= _FEW:
        return np.sort(np.concatenate(list(itertools.islice(_staircases(*columns), layers))))
    rows, left, kept = np.arange(len(columns[0])), list(columns), []
    for layer in range(layers):
        top = _layer(left)
        kept.append(rows[top])
        if layer + 1 < layers:
            others = np.delete(np.arange(len(rows)), top)
            rows, left = rows[others], [column[others] for column in left]
    return np.sort(np.concatenate(kept))


def _layer(columns: Sequence[_Column]) -> _Rows:
    """Rows that no other dominates; one of several equal rows."""
    if not len(columns[0]):
        return np.empty(0, dtype=np.intp)
    likely = _likely(columns)
    points = [column[likely] for column in columns]
    if len(points) == 2:
        return likely[_staircase(*points)]
    inside = moocore.is_nondominated(np.stack(points, axis=1), keep_weakly=False)
    return likely[np.flatnonzero(inside)]


def _likely(columns: Sequence[_Column]) -> _Rows:
    """Rows that a coarse grid cannot rule out: a cheap pass before the exact sort (ours).

    All columns but the first are sorted into the cells of a grid. A row is dominated if a cell that
    is lower in all of these columns contains a row whose first column is not larger.
    """
    first, rest = columns[0], columns[1:]
    if 2 ** len(rest) > _CELLS:
        return np.arange(len(first))  # with so many columns, a grid costs more than it rules out
    side = max(1, int(min(_CELLS, len(first)) ** (1 / len(rest))))
    cells: NDArray[np.int64] | int = 0
    for column in rest:
        low, high = column.min(), column.max()
        # Half a cell short, so that the highest value is in the last cell.
        shares = (column - low) / (high - low) if high > low else np.zeros(len(column))
        cells = cells * (side + 1) + (shares * (side - 0.5)).astype(np.int64) + 1
    best = np.full((side + 1) ** len(rest), np.inf)
    np.minimum.at(best, cells, first)
    grid = best.reshape((side + 1,) * len(rest))
    for axis in range(len(rest)):
        grid = np.minimum.accumulate(grid, axis=axis)
    # One cell back in every column: cells count from 1, so that this never leaves the grid.
    back = sum((side + 1) ** axis for axis in range(len(rest)))
    return np.flatnonzero(first < grid.ravel()[cells - back])


def _staircase(errors: _Column, costs: _Column) -> _Rows:
    """Rows that no other dominates in two columns; the first of several equal rows."""
    return next(_staircases(errors, costs))


def _staircases(errors: _Column, costs: _Column) -> Iterator[_Rows]:
    """Rows that no other dominates in two columns, then those of the rest, and so on."""
    left = np.lexsort((errors, costs))
    while True:
        in_order = errors[left]
        inside = np.ones(len(left), dtype=bool)
        inside[1:] = in_order[1:] < np.minimum.accumulate(in_order)[:-1]
        yield left[inside]
        left = left[~inside]


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume that the points dominate up to the reference; points beyond it add nothing.

    Args:
        points: minimised objectives, shape (N, M).
        reference: the worst values that count, shape (M,).

    Raises:
        ValueError: shapes do not fit, or a value is not finite.
    """
    array, limit = _within(points, reference)
    return float(moocore.hypervolume(array, ref=limit)) if len(array) else 0.0


def contributions(points: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Hypervolume that each point adds to the others, shape (N,); 0 for equal or dominated ones.

    Args:
        points: minimised objectives, shape (N, M).
        reference: the worst values that count, shape (M,).

    Raises:
        ValueError: as `hypervolume`.
    """
    array, limit = _within(points, reference)
    if not len(array):
        return np.zeros(0)
    if array.shape[1] == 1:  # moocore wants two objectives: a strip one wide has the same volume
        array, limit = np.pad(array, ((0, 0), (0, 1))), np.append(limit, 1.0)
    return np.asarray(moocore.hv_contributions(array, ref=limit))


def improvements(points: ArrayLike, known: ArrayLike, reference: ArrayLike) -> _Column:
    """Hypervolume that each point alone would add to others, shape (N,).

    Args:
        points, known: minimised objectives, shapes (N, M) and (K, M).
        reference: the worst values that count, shape (M,).

    Raises:
        ValueError: as `hypervolume`.
    """
    new, limit = _within(points, reference)
    array, _ = _within(known, reference)
    if len(limit) != 2:
        before = hypervolume(array, limit)
        after = [hypervolume(np.vstack([array, one]), limit) for one in new]
        return np.array(after, dtype=np.float64) - before
    array = array[(array < limit).all(axis=1)]
    steps = array[_staircase(array[:, 1], array[:, 0])]
    # Between two steps the points add a rectangle below the step before.
    starts = np.concatenate([[-np.inf], steps[:, 0]])
    ends = np.concatenate([steps[:, 0], limit[:1]])
    tops = np.concatenate([limit[1:], steps[:, 1]])
    widths = np.clip(ends - np.maximum(starts, new[:, :1]), 0.0, None)
    found: _Column = (widths * np.clip(tops - new[:, 1:], 0.0, None)).sum(axis=1)
    return found


def minimised(value: float, objective: Objective, owner: str) -> float:
    """One objective's value turned so that less is better: log10 if the objective asks, then sign.

    Raises:
        EstimateError: the value is not finite, or not positive where its logarithm is wanted.
    """
    if not math.isfinite(value):
        raise EstimateError(f"{objective.name} of {owner} is not finite: {value}")
    if objective.log:
        if value <= 0:
            raise EstimateError(
                f"{objective.name} of {owner} is {value}, which has no logarithm; "
                f"set log=False for the objective {objective.name!r}"
            )
        value = math.log10(value)
    return -value if objective.direction == "maximize" else value


def _row(evaluation: Evaluation, objectives: Sequence[Objective]) -> list[float]:
    known = evaluation.values()
    missing = [objective.name for objective in objectives if objective.name not in known]
    if missing:
        raise EstimateError(
            f"evaluation {evaluation.name} has no {', '.join(missing)}; it has "
            f"{', '.join(sorted(known))}. Delete its file in evaluations/, and the search makes it "
            "again"
        )
    return [
        minimised(known[objective.name], objective, f"evaluation {evaluation.name}")
        for objective in objectives
    ]


def as_minimised(
    evaluations: Sequence[Evaluation], objectives: Sequence[Objective]
) -> NDArray[np.float64]:
    """Objectives of evaluations as points to minimise, shape (N, M).

    A maximised objective is negated; one with `log` is taken as log10 of its value.

    Raises:
        ValueError: no objectives, an evaluation lacks one, a value is not finite, or not
            positive where its logarithm is wanted.
    """
    if not objectives:
        raise ValueError("a front needs at least one objective")
    rows = [_row(evaluation, objectives) for evaluation in evaluations]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(objectives))


def front_of(
    evaluations: Sequence[Evaluation], objectives: Sequence[Objective]
) -> list[Evaluation]:
    """The evaluations that no other dominates, the best in the last objective first.

    Raises:
        ValueError: as `as_minimised`.
    """
    points = as_minimised(evaluations, objectives)
    indices = sorted(front(points), key=lambda i: (points[i, -1], evaluations[i].name))
    return [evaluations[i] for i in indices]


def hypervolume_of(
    evaluations: Sequence[Evaluation],
    objectives: Sequence[Objective],
    reference: Mapping[str, float],
) -> float:
    """Hypervolume of evaluations; objectives with `log` are in log10 on both sides.

    Args:
        reference: the worst value that counts by objective name, in the objective's own units;
            evaluations beyond it add nothing.

    Raises:
        ValueError: the reference lacks an objective, or as `as_minimised`.
    """
    missing = [objective.name for objective in objectives if objective.name not in reference]
    if missing:
        raise ValueError(
            f"the reference has no value for {', '.join(missing)}; it has "
            f"{', '.join(sorted(reference)) or 'none'}"
        )
    limit = [minimised(reference[item.name], item, "the reference") for item in objectives]
    return hypervolume(as_minimised(evaluations, objectives), limit)


def is_feasible(evaluation: Evaluation, constraints: Sequence[Constraint]) -> bool:
    """Whether no constraint is violated; an unknown cost violates none, NaN always does."""
    values = evaluation.values()
    return all(
        not math.isnan(values.get(constraint.name, 0.0)) and constraint.violation(values) <= 0
        for constraint in constraints
    )


def at_chance(
    evaluations: Sequence[Evaluation], constraints: Sequence[Constraint]
) -> list[Evaluation]:
    """The evaluations that are no better than chance, where the constraints have its limit."""
    limits = [constraint for constraint in constraints if constraint.chance]
    return [one for one in evaluations if not is_feasible(one, limits)]


@dataclass(frozen=True)
class FrontChange:
    """How one more evaluation changed the front: names of evaluations that entered or left it."""

    entered: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


class IncrementalFront:
    """The front of all evaluations added so far.

    Evaluations that violate a constraint are never on it; all of several equal ones are.

    Raises:
        ValueError: no objectives.
    """

    def __init__(
        self, objectives: Sequence[Objective], constraints: Sequence[Constraint] = ()
    ) -> None:
        self._objectives = tuple(objectives)
        self._constraints = tuple(constraints)
        self._members: list[Evaluation] = []
        self._points = as_minimised([], self._objectives)
        self._seen: dict[str, tuple[float, ...]] = {}

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What an evaluation on the front must keep."""
        return self._constraints

    @property
    def members(self) -> list[Evaluation]:
        """The evaluations on the front, the best in the last objective first."""
        order = zip(self._points[:, -1], self._members, strict=True)
        ranked = sorted(order, key=lambda item: (item[0], item[1].name))
        return [member for _, member in ranked]

    def add(self, evaluation: Evaluation) -> FrontChange:
        """Add an evaluation; adding the same name and objectives again changes nothing.

        Raises:
            ValueError: an evaluation of this name was added with other objectives, or as
                `as_minimised`.
        """
        point = as_minimised([evaluation], self._objectives)[0]
        name, known = evaluation.name, tuple(point.tolist())
        if name in self._seen:
            if self._seen[name] != known:
                raise ValueError(
                    f"evaluation {name} was added before with other objectives: "
                    f"{self._seen[name]} then, {known} now (minimised)"
                )
            return FrontChange()
        self._seen[name] = known
        if not is_feasible(evaluation, self._constraints):
            return FrontChange()
        if ((self._points <= point).all(axis=1) & (self._points < point).any(axis=1)).any():
            return FrontChange()
        beaten = (self._points >= point).all(axis=1) & (self._points > point).any(axis=1)
        gone = [m for m, out in zip(self._members, beaten, strict=True) if out]
        stay = [m for m, out in zip(self._members, beaten, strict=True) if not out]
        self._members = [*stay, evaluation]
        self._points = np.vstack([self._points[~beaten], point])
        return FrontChange(entered=(name,), left=tuple(sorted(m.name for m in gone)))
