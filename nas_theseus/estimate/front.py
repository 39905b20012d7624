"""The exact front of an additive estimate: all pairings and block choices solved together."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike

from nas_theseus.errors import LimitError, ShapeError
from nas_theseus.estimate.label_setting import Floats, Graph, Integers, Paths, Question
from nas_theseus.values.architecture import Architecture, BlockChoice
from nas_theseus.values.goals import Constraint, plain_number

_EXACT_INTEGERS = 2**53


@dataclass(frozen=True)
class Option:
    """One block that fits between two states of a partial architecture.

    Attributes:
        tail, head: states before and after the block: a boundary's number, or with free widths
            (boundary, width share). A state holds everything that decides which blocks can follow.
        costs: additive, not negative, in the order of the space's `cost_names`; whole or not.
        before: the choice before this block, if states include it (`with_neighbours`).
    """

    tail: Hashable
    head: Hashable
    choice: BlockChoice
    costs: tuple[float, ...]
    before: BlockChoice | None = None


@dataclass(frozen=True)
class Solution:
    """One architecture, its estimated error and costs by name; epsilon as in `Solutions`."""

    architecture: Architecture
    error: float
    costs: Mapping[str, float]
    epsilon: float = 0.0


class Solutions:
    """Architectures by rising error, each built on access.

    Attributes:
        errors: shape (N,).
        costs: shape (N, C).
        edges: numbers of the options in order, shape (N, longest); -1 in front of shorter ones.
        epsilon: 0 when exact. Otherwise, for every architecture that keeps the limits with a factor
            1 + epsilon to spare, there is a solution with no more error and at most 1 + epsilon
            times each of its costs.
    """

    def __init__(self, space: AdditiveSpace, paths: Paths) -> None:
        self._space, self.edges = space, paths.edges
        self.errors, self.epsilon = paths.errors, paths.epsilon
        self._costs = paths.costs[:, : len(space.cost_names)]

    @property
    def costs(self) -> Integers | Floats:
        units = self._space.units
        return self._costs if (units == 1).all() else self._costs * units

    def __len__(self) -> int:
        return len(self.errors)

    def __getitem__(self, index: int) -> Solution:
        return next(iter(self.only(index)))

    def __iter__(self) -> Iterator[Solution]:
        options, names = self._space.options, self._space.cost_names
        units = zip(self._costs.T, self._space.units.tolist(), strict=True)
        # Lists, as it takes long to read an array's numbers one by one.
        columns = [(whole if unit == 1 else whole * unit).tolist() for whole, unit in units]
        costs = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        lists = (self.edges.tolist(), self.errors.tolist(), costs or [{}] * len(self))
        for edges, error, each in zip(*lists, strict=True):
            architecture = Architecture(tuple(options[i].choice for i in edges if i >= 0))
            yield Solution(architecture, error, each, self.epsilon)

    def only(self, index: int) -> Solutions:
        """The solution at an index, as `Solutions` of length 1."""
        row = [index]
        paths = Paths(self.errors[row], self._costs[row], self.edges[row], self.epsilon)
        return Solutions(self._space, paths)

    def within(self, budget: Sequence[Constraint], count: int | None = None) -> list[Solution]:
        """The first `count` solutions within a budget (all when None); empty if there are none.

        These are the best of the whole space if the budget consists of upper limits on objectives
        and `count` is at most the `layers` that the front was solved with.

        Raises:
            LimitError: a limit is on no cost of the space.
        """
        lower, upper = self._space.limits(budget)
        kept = ((self.costs >= lower) & (self.costs <= upper)).all(axis=1)
        return [self[int(index)] for index in np.flatnonzero(kept)[:count]]


class AdditiveSpace:
    """Every architecture as a path over states; its error and costs are sums over its options.

    The space is built once; each call to `front`, `best` or `diverse` takes its own errors, such as
    a posterior draw of an estimate. `label_setting.Graph` says how the space is solved and when the
    solution is exact.

    Limits are hard: a partial architecture is dropped when even the cheapest completion exceeds an
    upper limit, or even the most expensive one misses a lower limit. While a partial architecture
    may still miss a lower limit, a cheaper one does not dominate it, so lower limits take longer.

    Errors are sums of floats in path order, compared without tolerance: a tie in exact arithmetic
    may differ in the last bit. Of several architectures with equal error and costs, one is
    returned.

    Args:
        options: every block choice of the space.
        start, stop: the states before the first part and after the last.
        cost_names: names of the values in `Option.costs`, in order.
        max_labels: partial architectures that a state may hold before epsilon is increased.
            Default: a million, or ten thousand where several costs are compared.

    Attributes:
        units: what costs are counted in, shape (C,): 1 for whole numbers; a power of two for
            others, to which each option's cost is rounded (to 2^-50 of the dearest sum).

    Raises:
        PairingError: no sequence of blocks leads from start to stop, or states form a cycle.
        ShapeError: an option's costs do not fit the names, are negative, or add up beyond 2^53.
    """

    def __init__(
        self,
        options: Sequence[Option],
        start: Hashable,
        stop: Hashable,
        cost_names: Sequence[str] = ("macs",),
        max_labels: int | None = None,
    ) -> None:
        self.options, self.cost_names = tuple(options), tuple(cost_names)
        self.max_labels = max_labels
        for option in self.options:
            if len(option.costs) != len(self.cost_names) or min(option.costs, default=0) < 0:
                raise ShapeError(
                    f"block '{option.choice}' for {option.choice.span.text} has costs "
                    f"{option.costs}; give one value >= 0 for each of {', '.join(self.cost_names)}"
                )
        self._graph = Graph([(option.tail, option.head) for option in options], start, stop)
        rows = list(zip(*(option.costs for option in self.options), strict=True))
        units = [_unit(row, self._graph.longest) for row in rows]
        self.units = np.array(units, dtype=np.float64)
        whole = [_whole(row, unit) for row, unit in zip(rows, units, strict=True)]
        self._costs = np.array(whole, dtype=np.int64).reshape(len(whole), len(self.options))
        dearest = max(self._graph.rest(self._costs, np.maximum)[start].tolist(), default=0)
        if dearest >= _EXACT_INTEGERS:
            raise ShapeError(f"costs add up to {dearest:,}; count in units that stay below 2^53")

    def count(self) -> int:
        """Number of different architectures, ignoring limits."""
        return self._graph.count()

    def front(
        self,
        errors: ArrayLike,
        constraints: Sequence[Constraint] = (),
        objectives: Sequence[str] | None = None,
        epsilon: float | None = None,
        layers: int = 1,
    ) -> Solutions:
        """The Pareto front of error and costs over all architectures that keep the limits.

        Args:
            errors: one finite value per option, shape (E,); less is better, may be negative.
            objectives: costs to minimise besides the error. Default: all.
            epsilon: precision of costs. Default: 0 (exact) if one cost is an objective or has an
                upper limit, 0.05 if several do. If a state exceeds `max_labels`, a larger epsilon
                is used and returned.
            layers: number of successive fronts to return. With k layers, the k best architectures
                under any budget on the objectives are among the solutions (`Solutions.within`).

        Raises:
            ShapeError: errors of another shape, or not finite.
            LimitError: a limit or objective is not a cost of the space, or no architecture keeps
                the limits; the message names the limit and the closest architecture's value.
        """
        question = self._question(
            self.cost_names if objectives is None else objectives, constraints
        )
        return self._answer(errors, question, constraints, epsilon, layers)

    def best(
        self,
        errors: ArrayLike,
        count: int = 1,
        constraints: Sequence[Constraint] = (),
        epsilon: float | None = None,
    ) -> Solutions:
        """The `count` architectures of least error within the limits, or all if there are fewer.

        Exact if the returned epsilon is 0. Arguments and errors as for `front`.
        """
        return self.front(errors, constraints, (), epsilon, layers=count)

    def diverse(
        self,
        errors: ArrayLike,
        count: int,
        distance: int,
        constraints: Sequence[Constraint] = (),
        epsilon: float | None = None,
        without: Collection[Architecture] = (),
    ) -> list[Solution]:
        """Architectures of little error that differ pairwise in at least `distance` guide parts.

        The distance is the Hamming distance over guide parts: the number of parts that two
        architectures do not cover by the same block choice for the same span. The first
        architecture is the best; each further one is the best at this distance from all before it.
        It is exactly the best if its epsilon is 0; label sets grow up to (distance + 1)-fold with
        each architecture, so `max_labels` may force a larger epsilon. The choice is greedy: another
        set may have a smaller sum of errors, or more members. Fewer than `count` are returned when
        no more exist.

        Arguments and errors as for `front`; architectures in `without` are skipped.
        """
        question, found = self._question((), constraints), list[Solution]()
        answer = self._answer(errors, question, constraints, epsilon, 1)
        while True:
            layers = 1
            # All requested architectures are to be skipped: there may be more beyond them.
            while len(answer) == layers and all(one.architecture in without for one in answer):
                layers *= 4
                answer = self._solve(self._checked(errors), question, epsilon, layers)
            new = next((one for one in answer if one.architecture not in without), None)
            if new is None:
                return found
            found.append(new)
            if len(found) == count:
                return found
            chosen = set(new.architecture.choices)
            far = [0 if o.choice in chosen else len(o.choice.span) for o in self.options]
            question = question.away_from(np.array(far), distance)
            answer = self._solve(self._checked(errors), question, epsilon, 1)

    def limits(self, constraints: Sequence[Constraint]) -> tuple[Floats, Floats]:
        """Lower and upper limit of each cost, shapes (C,), infinite where there is none.

        Where costs are rounded to units, limits are wider by what rounding may add.

        Raises:
            LimitError: a limit is on no cost of the space.
        """
        self._must_know([constraint.name for constraint in constraints])
        lower = np.full(len(self.cost_names), -np.inf)
        upper = np.full(len(self.cost_names), np.inf)
        for constraint in constraints:
            row = self.cost_names.index(constraint.name)
            if constraint.operator == "<=":
                upper[row] = min(upper[row], constraint.limit)
            else:
                lower[row] = max(lower[row], constraint.limit)
        room = np.where(self.units == 1, 0.0, self.units * self._graph.longest / 2)
        return lower - room, upper + room

    def _must_know(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self.cost_names]
        if unknown:
            raise LimitError(
                f"unknown cost {', '.join(unknown)} in a limit or objective; available: "
                f"{', '.join(self.cost_names) or 'none, as options have no costs'}"
            )

    def _question(self, objectives: Sequence[str], constraints: Sequence[Constraint]) -> Question:
        self._must_know(objectives)
        wanted = np.array([name in objectives for name in self.cost_names], dtype=bool)
        lower, upper = self.limits(constraints)
        return Question(self._costs, wanted, lower / self.units, upper / self.units)

    def _checked(self, errors: ArrayLike) -> Floats:
        array = np.asarray(errors, dtype=np.float64)
        if array.shape != (len(self.options),) or not np.isfinite(array).all():
            raise ShapeError(
                f"errors must be finite, one for each of {len(self.options)} options, not of "
                f"shape {array.shape} with {np.count_nonzero(~np.isfinite(array))} not finite"
            )
        return array

    def _solve(
        self, errors: Floats, question: Question, epsilon: float | None, layers: int
    ) -> Solutions:
        several = int(np.count_nonzero(question.compared) > 1)
        if epsilon is None:
            epsilon = (0.0, 0.05)[several]
        most = self.max_labels or (1_000_000, 10_000)[several]
        return Solutions(self, self._graph.front(errors, question, epsilon, layers, most))

    def _answer(
        self,
        errors: ArrayLike,
        question: Question,
        constraints: Sequence[Constraint],
        epsilon: float | None,
        layers: int,
    ) -> Solutions:
        checked = self._checked(errors)
        answer = self._solve(checked, question, epsilon, layers)
        if len(answer):
            return answer
        closest, missed = self._closest(constraints)
        if missed:
            raise self._no_architecture(constraints)
        # With rounded costs, architectures that only just keep the limits were dropped.
        closest.errors = np.array([checked[closest.edges[0]].sum()])
        closest.epsilon = answer.epsilon
        return closest

    def _no_architecture(self, constraints: Sequence[Constraint]) -> LimitError:
        """The error that names the limit no architecture keeps, and the closest architecture."""
        for constraint in constraints:
            if self._closest([constraint])[1]:
                constraints = [constraint]
                break
        closest = self._closest(constraints)[0]
        costs = closest[0].costs
        binding = max(constraints, key=lambda constraint: constraint.violation(costs))
        together = "" if len(constraints) == 1 else " together"
        nearest = ", ".join(f"{c.name} = {plain_number(costs[c.name])}" for c in constraints)
        coarse = f" (costs compared to {closest.epsilon:.0%})" if closest.epsilon else ""
        return LimitError(
            f"no architecture keeps {' and '.join(map(str, constraints))}{together}: the closest "
            f"has {nearest}{coarse}; "
            f"{'raise' if binding.operator == '<=' else 'lower'} the limit '{binding}' to "
            f"{plain_number(costs[binding.name])} or offer other blocks (the closest is "
            f"{closest[0].architecture.blocks} for parts {closest[0].architecture.pairing})",
            str(binding),
            costs[binding.name],
        )

    def _closest(self, constraints: Sequence[Constraint]) -> tuple[Solutions, float]:
        """The architecture that misses the limits least, and the sum of its relative excesses."""
        question = replace(self._question((), constraints), hard=False)
        answer = self._solve(np.zeros(len(self.options)), question, 0.0, 1)
        named = [one.costs for one in answer]
        missed = [sum(c.violation(costs) for c in constraints) for costs in named]
        nearest = int(np.argmin(missed))
        return answer.only(nearest), missed[nearest]


def _unit(costs: Sequence[float], longest: int) -> float:
    """1 where all are whole numbers, else the power of two that they are rounded to.

    Sums of `longest` of them stay exact in 50 bits, so nothing depends on the order of a sum.
    """
    dearest = max(costs) * longest
    if all(isinstance(cost, Integral) for cost in costs) or dearest == 0:
        return 1.0
    return 2.0 ** (math.frexp(dearest)[1] - 50)


def _whole(costs: Sequence[float], unit: float) -> list[int]:
    """Costs in units."""
    return [int(cost) if unit == 1 else round(cost / unit) for cost in costs]


def with_neighbours(options: Sequence[Option], start: Hashable, stop: Hashable) -> list[Option]:
    """The same space with states that include the previous choice, for errors of pairs.

    Each option is repeated for every choice that can precede it (`Option.before`), so that its
    error can depend on that choice. States are (state, choice), except for start and stop.
    """
    inlets: dict[Hashable, dict[BlockChoice, None]] = {}
    for option in options:
        inlets.setdefault(option.head, {})[option.choice] = None
    found = []
    for option in options:
        head = stop if option.head == stop else (option.head, option.choice)
        if option.tail == start:
            found.append(replace(option, head=head))
        for choice in inlets.get(option.tail, ()):
            found.append(replace(option, tail=(option.tail, choice), head=head, before=choice))
    return found
