"""Fronts of additive estimates against brute force over all architectures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from nas_theseus.errors import LimitError, PairingError, ShapeError
from nas_theseus.estimate.front import AdditiveSpace, Option, Solution, with_neighbours
from nas_theseus.estimate.pareto import front as pareto_front
from nas_theseus.values.architecture import BlockChoice, Span
from nas_theseus.values.goals import Constraint

Point = tuple[float, ...]


def option(start: int, stop: int, name: str, *costs: int) -> Option:
    return Option(start, stop, BlockChoice(Span(start, stop), name), costs)


def random_space(
    seed: int, costs: int = 1, coarse: bool = False, widths: bool = False
) -> tuple[AdditiveSpace, np.ndarray]:
    """Up to 5 parts, spans up to 3, up to 3 blocks; `coarse` makes ties common."""
    rng = np.random.default_rng(seed)
    parts = int(rng.integers(2, 6))
    shares = (0.5, 1.0) if widths else (1.0,)
    options = []
    for start in range(parts):
        for stop in range(start + 1, min(parts, start + 3) + 1):
            for inlet, outlet in itertools.product(shares, shares):
                if (start == 0 and inlet != 1) or (stop == parts and outlet != 1):
                    continue
                for block in range(int(rng.integers(1, 4 if not widths else 2))):
                    choice = BlockChoice(Span(start, stop), f"b{block}", (), outlet)
                    high = 4 if coarse else 10**6
                    values = tuple(int(v) for v in rng.integers(0, high, costs))
                    options.append(Option((start, inlet), (stop, outlet), choice, values))
    errors = rng.integers(-2, 3, len(options)) / 4 if coarse else rng.normal(size=len(options))
    names = ("macs", "params", "memory")[:costs]
    return AdditiveSpace(options, (0, 1.0), (parts, 1.0), names), errors


def every(space: AdditiveSpace, errors: np.ndarray) -> dict[tuple[int, ...], Point]:
    """Error and costs of each path, by the numbers of its options."""
    out: dict[object, list[int]] = {}
    for number, one in enumerate(space.options):
        out.setdefault(one.tail, []).append(number)
    found: dict[tuple[int, ...], Point] = {}
    start, stop = space.options[0].tail, max(o.head for o in space.options)  # type: ignore
    stack: list[tuple[object, tuple[int, ...]]] = [(start, ())]
    while stack:
        state, path = stack.pop()
        if state == stop:
            error = 0.0
            for number in path:
                error += errors[number]
            rows = [space.options[number].costs for number in path]
            found[path] = (error, *(sum(column) for column in zip(*rows, strict=True)))
        stack += [(space.options[n].head, (*path, n)) for n in out.get(state, ())]
    return found


def keeps(point: Point, names: Sequence[str], constraints: Sequence[Constraint]) -> bool:
    values = dict(zip(names, point[1:], strict=True))
    return all(constraint.violation(values) == 0 for constraint in constraints)


def undominated(points: Sequence[Point]) -> set[Point]:
    return {points[i] for i in pareto_front(points)}


def points_of(solutions: Sequence[Solution]) -> list[Point]:
    return [(one.error, *one.costs.values()) for one in solutions]


def random_limits(seed: int, space: AdditiveSpace, points: Sequence[Point]) -> list[Constraint]:
    rng = np.random.default_rng(seed + 1)
    limits = []
    for column, name in enumerate(space.cost_names, start=1):
        low, high = np.quantile([p[column] for p in points], sorted(rng.uniform(0, 1, 2)))
        limits += [Constraint(name, ">=", float(low))] if rng.uniform() < 0.6 else []
        limits += [Constraint(name, "<=", float(high))] if rng.uniform() < 0.6 else []
    return limits


@pytest.mark.parametrize("seed", range(200))
def test_front_and_best_equal_brute_force(seed: int) -> None:
    costs = 1 + seed % 3
    space, errors = random_space(seed, costs, coarse=seed % 4 == 0, widths=seed % 5 == 0)
    points = list(every(space, errors).values())
    solved = space.front(errors, epsilon=0)
    assert solved.epsilon == 0
    assert set(points_of(list(solved))) == undominated(points)
    assert len(solved) == len(undominated(points)), "one architecture a point"

    limits = random_limits(seed, space, points)
    kept = [point for point in points if keeps(point, space.cost_names, limits)]
    if not kept:
        with pytest.raises(LimitError, match="no architecture keeps"):
            space.front(errors, limits, epsilon=0)
        return
    limited = list(space.front(errors, limits, epsilon=0))
    assert set(points_of(limited)) == undominated(kept)
    best = list(space.best(errors, 4, limits, epsilon=0))
    assert [one.error for one in best] == sorted(point[0] for point in kept)[:4]
    assert len({one.architecture for one in best}) == len(best)


@pytest.mark.parametrize("seed", range(40))
def test_layers_hold_the_best_under_every_budget(seed: int) -> None:
    space, errors = random_space(seed, coarse=seed % 2 == 0)
    points = list(every(space, errors).values())
    solved = space.front(errors, layers=3)
    for limit in {point[1] for point in points}:
        under = sorted(point[0] for point in points if point[1] <= limit)[:3]
        found = solved.within([Constraint("macs", "<=", limit)], 3)
        assert [one.error for one in found] == under
    assert solved.within([Constraint("macs", "<=", -1)]) == []


@pytest.mark.parametrize("seed", range(40))
def test_the_next_diverse_architecture_is_the_best_so_far_away(seed: int) -> None:
    space, errors = random_space(seed, coarse=seed % 3 == 0)
    paths = every(space, errors)
    limit = Constraint("macs", "<=", float(np.median([point[1] for point in paths.values()])))
    left = {
        tuple(space.options[i].choice for i in path): point[0]
        for path, point in paths.items()
        if point[1] <= limit.limit
    }

    def distance(one: tuple[BlockChoice, ...], other: tuple[BlockChoice, ...]) -> int:
        return sum(len(choice.span) for choice in one if choice not in other)

    found = space.diverse(errors, 4, 2, [limit])
    for solution in found:
        choices = solution.architecture.choices
        assert left[choices] == solution.error == min(left.values())
        left = {one: error for one, error in left.items() if distance(one, choices) >= 2}
    assert len(found) == 4 or not left


@pytest.mark.parametrize("seed", range(20))
def test_architectures_that_are_passed_over_leave_the_best_of_the_others(seed: int) -> None:
    space, errors = random_space(seed)
    points = every(space, errors).values()
    limit = Constraint("macs", "<=", float(np.median([point[1] for point in points])))
    left = sorted(point[0] for point in points if point[1] <= limit.limit)
    passed = list[Solution]()
    while found := space.diverse(
        errors, 1, 1, [limit], without={one.architecture for one in passed}
    ):
        passed += found
    assert [one.error for one in passed] == left
    assert len({one.architecture for one in passed}) == len(left)


@pytest.mark.parametrize("seed", range(30))
def test_with_epsilon_every_architecture_has_one_nearly_as_good(seed: int) -> None:
    space, errors = random_space(seed, costs=2)
    points = list(every(space, errors).values())
    solved = space.front(errors, epsilon=0.3)
    assert solved.epsilon == 0.3
    found = np.array(points_of(list(solved)))
    exact = set(points)
    assert {tuple(row) for row in found.tolist()} <= exact
    for point in points:
        near = np.array([point[0], *(cost * 1.3 for cost in point[1:])])
        assert (found <= near * (1 + 1e-12 * np.sign(near))).all(axis=1).any()

    limits = random_limits(seed, space, points)
    roomy = [
        point
        for point in points
        if all(
            value <= limit.limit / 1.3 if limit.operator == "<=" else value >= limit.limit * 1.3
            for limit in limits
            for value in [point[1 + space.cost_names.index(limit.name)]]
        )
    ]
    if roomy:
        found = np.array(points_of(list(space.front(errors, limits, epsilon=0.3))))
        assert all(keeps(tuple(row), space.cost_names, limits) for row in found.tolist())
        for point in roomy:
            near = np.array([point[0], *(cost * 1.3 for cost in point[1:])])
            assert (found <= near * (1 + 1e-12 * np.sign(near))).all(axis=1).any()


def chain(parts: int, seed: int = 0) -> list[Option]:
    rng = np.random.default_rng(seed)
    return [
        option(part, part + 1, f"b{block}", *rng.integers(10**5, 10**6, 2).tolist())
        for part in range(parts)
        for block in range(4)
    ]


def test_too_many_labels_make_epsilon_larger_and_tell_it() -> None:
    options = chain(8)
    errors = np.random.default_rng(1).normal(size=len(options))
    names = ("macs", "params")
    exact = AdditiveSpace(options, 0, 8, names).front(errors, epsilon=0)
    space = AdditiveSpace(options, 0, 8, names, max_labels=len(exact) // 3)
    rough = space.front(errors, epsilon=0)
    assert exact.epsilon == 0 < rough.epsilon
    assert len(rough) < len(exact)
    for row in np.column_stack([exact.errors, exact.costs / (1 / (1 + rough.epsilon))]):
        within = np.column_stack([rough.errors, rough.costs]) <= row + 1e-9 * abs(row)
        assert within.all(axis=1).any()


def test_a_rounded_search_that_loses_what_just_keeps_the_limits_still_finds_it() -> None:
    options = [
        option(0, 1, "a", 100, 100), option(0, 1, "b", 101, 99),
        option(1, 2, "c", 100, 100), option(1, 2, "d", 99, 101),
    ]  # fmt: skip
    space = AdditiveSpace(options, 0, 2, ("macs", "params"))
    limits = [Constraint("macs", "<=", 200), Constraint("params", "<=", 200)]
    for limit in (Constraint("macs", ">=", 200), Constraint("params", ">=", 200)):
        found = space.front([0, -1, 0, -1], [*limits, limit], epsilon=1.0)
        assert found.errors.tolist() in ([-2.0], [0.0])
        assert found[0].costs == {"macs": 200, "params": 200}


def test_a_limit_that_cannot_be_met_is_named_with_the_closest_value() -> None:
    options = [
        option(0, 1, "small", 10, 90), option(0, 1, "large", 40, 20),
        option(1, 2, "small", 10, 80), option(1, 2, "large", 30, 30),
    ]  # fmt: skip
    space = AdditiveSpace(options, 0, 2, ("macs", "params"))
    errors = [1.0, 0.0, 1.0, 0.0]
    with pytest.raises(LimitError, match=r"macs <= 15.*macs = 20; raise.*to 20") as caught:
        space.front(errors, [Constraint("params", "<=", 170), Constraint("macs", "<=", 15)])
    assert (caught.value.limit, caught.value.closest) == ("macs <= 15", 20)
    with pytest.raises(LimitError, match=r"macs >= 100.*macs = 70; lower") as caught:
        space.best(errors, 1, [Constraint("macs", ">=", 100)])
    assert (caught.value.limit, caught.value.closest) == ("macs >= 100", 70)
    together = [Constraint("macs", "<=", 40), Constraint("params", "<=", 105)]
    with pytest.raises(LimitError, match="together: the closest has macs = 40, params = 120"):
        space.diverse(errors, 2, 1, together)
    window = [Constraint("macs", ">=", 21), Constraint("macs", "<=", 39)]
    with pytest.raises(LimitError, match="macs = 40") as caught:
        space.best(errors, 1, window)
    assert caught.value.closest == 40


def test_costs_that_are_not_known_are_told() -> None:
    space, errors = random_space(0)
    with pytest.raises(LimitError, match="unknown cost latency_ms.*available: macs"):
        space.front(errors, [Constraint("latency_ms", "<=", 3)])
    with pytest.raises(LimitError, match="unknown cost params"):
        space.front(errors, objectives=["params"])


def test_what_is_no_space_is_refused() -> None:
    with pytest.raises(PairingError, match="from 0 to 3: blocks reach 0, 1"):
        AdditiveSpace([option(0, 1, "a", 1), option(2, 3, "b", 1)], 0, 3)
    with pytest.raises(PairingError, match="no sequence of blocks"):
        AdditiveSpace([], 0, 1)
    turned = Option(1, 0, BlockChoice(Span(0, 1), "back"), (1,))
    with pytest.raises(PairingError, match="cycle"):
        AdditiveSpace([option(0, 1, "a", 1), turned], 0, 1)
    with pytest.raises(ShapeError, match=r"block 'a' for part 0 has costs \(1, 2\)"):
        AdditiveSpace([option(0, 1, "a", 1, 2)], 0, 1)
    with pytest.raises(ShapeError, match=">= 0"):
        AdditiveSpace([option(0, 1, "a", -1)], 0, 1)
    with pytest.raises(ShapeError, match="2\\^53"):
        AdditiveSpace([option(0, 1, "a", 2**53)], 0, 1)
    space = AdditiveSpace([option(0, 1, "a", 1)], 0, 1)
    for errors in ([1.0, 2.0], [float("nan")]):
        with pytest.raises(ShapeError, match="one for each of 1 options"):
            space.front(errors)


def test_blocks_off_every_path_are_left_out() -> None:
    options = [option(0, 1, "a", 1), option(0, 2, "dead end", 0), option(1, 3, "b", 1)]
    solved = AdditiveSpace(options, 0, 3).front([0.0, -9.0, 0.0])
    assert [one.architecture.blocks for one in solved] == ["a|b"]


def test_a_space_without_costs_has_one_best() -> None:
    space = AdditiveSpace([option(0, 1, "a"), option(0, 1, "b")], 0, 1, ())
    assert [one.architecture.blocks for one in space.front([1.0, 0.5])] == ["b"]


@pytest.mark.parametrize("seed", range(20))
def test_states_that_remember_the_choice_before_price_pairs_exactly(seed: int) -> None:
    space, errors = random_space(seed)
    rng = np.random.default_rng(seed)
    stop = max(o.head for o in space.options)  # type: ignore[type-var]
    options = with_neighbours(space.options, (0, 1.0), stop)
    own = {o.choice: e for o, e in zip(space.options, errors, strict=True)}
    names = sorted({str(o.choice) for o in options})
    pair = {key: rng.normal() for key in itertools.product(names, names)}
    paired = [
        own[o.choice] + (pair[str(o.before), str(o.choice)] if o.before else 0.0) for o in options
    ]
    solved = AdditiveSpace(options, (0, 1.0), stop).front(paired)
    points = set()
    for path, point in every(space, errors).items():
        choices = [space.options[i].choice for i in path]
        error = own[choices[0]]
        for before, choice in itertools.pairwise(choices):
            error += own[choice] + pair[str(before), str(choice)]
        points.add((error, point[1]))
    assert set(points_of(list(solved))) == undominated(list(points))


@pytest.mark.parametrize("scale", [1e-9, 0.1, 3e14])
def test_costs_need_not_be_whole_numbers(scale: float) -> None:
    """The same front and the same limits as with whole numbers, in units of their own."""
    whole, errors = random_space(3)
    options = [replace(o, costs=tuple(c * scale for c in o.costs)) for o in whole.options]
    stop = max(o.head for o in options)  # type: ignore
    space = AdditiveSpace(options, (0, 1.0), stop, whole.cost_names)
    expected, found = whole.front(errors, epsilon=0), space.front(errors, epsilon=0)
    assert [one.architecture for one in found] == [one.architecture for one in expected]
    assert found.errors.tolist() == expected.errors.tolist()
    assert found.costs / scale == pytest.approx(expected.costs.astype(float), rel=1e-12)
    name = whole.cost_names[0]
    for one in expected:  # a limit that one architecture only just keeps
        limits = [Constraint(name, "<=", one.costs[name] * scale)]
        within = [o.architecture for o in found.within(limits)]
        exact = [o.architecture for o in expected.within([Constraint(name, "<=", one.costs[name])])]
        assert within == exact
        assert one.architecture in within
    least = min(one.costs[name] for one in expected)
    with pytest.raises(LimitError) as caught:
        space.front(errors, [Constraint(name, "<=", least * scale / 2)])
    assert caught.value.closest == pytest.approx(least * scale)


def test_a_limit_that_fractions_only_just_keep_is_kept() -> None:
    """Ten times 0.1 are 1, though floats add up to less or more in some orders."""
    options = [option(i, i + 1, name) for i in range(10) for name in "ab"]
    options = [replace(o, costs=(0.1 if o.choice.block == "a" else 0.3,)) for o in options]
    space = AdditiveSpace(options, 0, 10, ("energy_mj",))
    (found,) = space.best(np.zeros(20), 9, [Constraint("energy_mj", "<=", 1.0)])
    assert {c.block for c in found.architecture.choices} == {"a"}
    assert found.costs["energy_mj"] == pytest.approx(1.0, rel=1e-14)
    (dearest,) = space.best(np.zeros(20), 9, [Constraint("energy_mj", ">=", 3.0)])
    assert {c.block for c in dearest.architecture.choices} == {"b"}
