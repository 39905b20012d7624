"""Fronts, ranks and hypervolume against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_theseus.estimate.pareto import (
    FrontChange,
    IncrementalFront,
    as_minimised,
    contributions,
    dominates,
    first_fronts,
    front,
    front_of,
    hypervolume,
    hypervolume_of,
    improvements,
    is_feasible,
    ranks,
)
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.goals import Constraint, Objective
from nas_theseus.values.outcomes import Cost, Evaluation

ACCURACY = Objective("val_accuracy", "maximize")
MACS = Objective("macs", "minimize", log=True)
PARAMS = Objective("params", "minimize")


def evaluation(seed: int, accuracy: float, macs: int, params: int = 1) -> Evaluation:
    return Evaluation(
        architecture=Architecture((BlockChoice(Span(0, 1), "keep"),)),
        recipe="r",
        seed=seed,
        metrics={"val_accuracy": accuracy},
        cost=Cost({"macs": macs, "params": params}),
        train_macs_spent=0,
        seconds=0.0,
    )


@st.composite
def point_sets(draw: st.DrawFn, least: int = 1, most: int = 4) -> list[list[float]]:
    """Small integers make ties and duplicates common; floats make them rare."""
    width = draw(st.integers(least, most))
    small = st.integers(0, 4).map(float)
    value = draw(st.sampled_from([small, st.floats(-1e6, 1e6)]))
    row = st.lists(value, min_size=width, max_size=width)
    return draw(st.lists(row, min_size=1, max_size=24))


def brute_dominates(a: list[float], b: list[float]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def brute_front(points: list[list[float]]) -> list[int]:
    return [
        i for i, point in enumerate(points) if not any(brute_dominates(q, point) for q in points)
    ]


def brute_ranks(points: list[list[float]]) -> list[int]:
    found = [-1] * len(points)
    rank = 0
    while -1 in found:
        left = [i for i, known in enumerate(found) if known < 0]
        for i in brute_front([points[i] for i in left]):
            found[left[i]] = rank
        rank += 1
    return found


def grid_hypervolume(points: list[list[float]], reference: list[float]) -> float:
    """Unit cells of an integer grid below the reference that some point dominates."""
    lowest = [
        min(min(column), top)
        for column, top in zip(zip(*points, strict=True), reference, strict=True)
    ]
    cells = itertools.product(
        *(range(int(low), int(top)) for low, top in zip(lowest, reference, strict=True))
    )
    return float(
        sum(
            any(all(p <= c for p, c in zip(q, cell, strict=True)) for q in points) for cell in cells
        )
    )


@settings(deadline=None)
@given(point_sets())
def test_front_and_ranks_equal_brute_force(points: list[list[float]]) -> None:
    assert front(points) == brute_front(points)
    assert ranks(points) == brute_ranks(points)
    for a, b in itertools.product(points[:6], repeat=2):
        assert dominates(a, b) == brute_dominates(a, b)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_equal_points_all_stay_and_chains_rank_in_order(width: int) -> None:
    same = [[1.0] * width] * 5
    assert front(same) == list(range(5))
    assert ranks(same) == [0] * 5
    chain = [[float(i)] * width for i in (3, 0, 2, 1, 0)]
    assert ranks(chain) == [3, 0, 2, 1, 0]
    assert front(chain) == [1, 4]


def test_signed_zeros_are_equal() -> None:
    assert front([[0.0, 1.0], [-0.0, 1.0]]) == [0, 1]


@settings(deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda width: st.lists(
            st.lists(st.integers(0, 6).map(float), min_size=width, max_size=width),
            min_size=1,
            max_size=12,
        )
    ),
    st.lists(st.integers(0, 6).map(float), min_size=3, max_size=3),
)
def test_hypervolume_equals_counted_cells(points: list[list[float]], top: list[float]) -> None:
    reference = top[: len(points[0])]
    assert hypervolume(points, reference) == pytest.approx(grid_hypervolume(points, reference))


def test_hypervolume_by_inclusion_and_exclusion_in_four_objectives() -> None:
    points = np.random.default_rng(0).random((7, 4))
    total = 0.0
    for size in range(1, 8):
        for chosen in itertools.combinations(points, size):
            corner = np.max(chosen, axis=0)
            total -= (-1) ** size * float(np.prod(1.1 - corner))
    assert hypervolume(points, [1.1] * 4) == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_contributions_are_what_the_hypervolume_loses(objectives: int) -> None:
    points = np.random.default_rng(objectives).random((9, objectives))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points = np.vstack([points, points[-1:]])  # equal ones add nothing to each other
    reference = np.full(objectives, 1.1)
    whole = hypervolume(points, reference)
    lost = [
        whole - hypervolume(np.delete(points, i, axis=0), reference) for i in range(len(points))
    ]
    assert contributions(points, reference) == pytest.approx(lost)
    assert contributions([], reference).shape == (0,)
    assert lost[-1] == 0 and (objectives == 1 or max(lost) > 0)


def test_points_beyond_the_reference_count_nothing() -> None:
    assert hypervolume([[0.0, 5.0], [3.0, 0.0]], [2.0, 2.0]) == 0.0
    assert hypervolume([[0.0, 5.0], [1.0, 1.0]], [2.0, 2.0]) == 1.0


def test_empty_sets() -> None:
    assert front([]) == ranks([]) == []
    assert front(np.zeros((0, 3))) == []
    assert hypervolume([], [1.0, 1.0]) == 0.0
    assert front_of([], [ACCURACY]) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("call", [front, ranks, lambda p: hypervolume(p, [9.0, 9.0])])
def test_rows_that_are_not_finite_are_named(bad: float, call) -> None:
    with pytest.raises(ValueError, match="row 2"):
        call([[0.0, 1.0], [1.0, 0.0], [bad, 0.0]])


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        front([1.0, 2.0])
    with pytest.raises(ValueError, match="2 objectives, the reference 3"):
        hypervolume([[1.0, 2.0]], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="shapes"):
        dominates([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="not finite"):
        hypervolume([[1.0]], [math.nan])


def test_objectives_become_minimised_points() -> None:
    points = as_minimised([evaluation(0, 0.9, 1000, 7)], [ACCURACY, MACS, PARAMS])
    assert points.tolist() == [[-0.9, pytest.approx(3.0), 7.0]]


def test_front_of_is_sorted_by_the_last_objective() -> None:
    given_ = [evaluation(0, 0.9, 1000), evaluation(1, 0.5, 10), evaluation(2, 0.4, 100)]
    assert [e.seed for e in front_of(given_, [ACCURACY, MACS])] == [1, 0]
    assert [e.seed for e in front_of(given_, [MACS, ACCURACY])] == [0, 1]


def test_hypervolume_of_is_in_log_on_both_sides() -> None:
    given_ = [evaluation(0, 0.9, 10_000), evaluation(1, 0.7, 100), evaluation(2, 0.99, 10**9)]
    reference = {"val_accuracy": 0.5, "macs": 1e6}
    # Decades below the reference by accuracy above it: 4 x 0.2 on top of 2 x 0.4 - 2 x 0.2.
    expected = (6 - 2) * (0.7 - 0.5) + (6 - 4) * (0.9 - 0.7)
    assert hypervolume_of(given_, [ACCURACY, MACS], reference) == pytest.approx(expected)
    with pytest.raises(ValueError, match="no value for macs; it has val_accuracy"):
        hypervolume_of(given_, [ACCURACY, MACS], {"val_accuracy": 0.5})
    with pytest.raises(ValueError, match="macs of the reference is 0"):
        hypervolume_of(given_, [ACCURACY, MACS], {"val_accuracy": 0.5, "macs": 0})


def test_objectives_that_cannot_be_used_are_named() -> None:
    with pytest.raises(ValueError, match=r"macs .* has no logarithm"):
        as_minimised([evaluation(0, 0.9, 0)], [MACS])
    with pytest.raises(ValueError, match="has no latency_ms; it has macs, params, val_accuracy"):
        as_minimised([evaluation(0, 0.9, 1)], [Objective("latency_ms", "minimize")])
    with pytest.raises(ValueError, match=r"val_accuracy of evaluation .*-r-3 is not finite"):
        as_minimised([evaluation(3, math.nan, 1)], [ACCURACY])
    with pytest.raises(ValueError, match="at least one objective"):
        as_minimised([], [])


values = st.tuples(st.integers(0, 4), st.integers(1, 5), st.integers(0, 4))


@settings(deadline=None)
@given(st.lists(values, max_size=25), st.integers(1, 3))
def test_incremental_front_equals_front_from_scratch(
    rows: list[tuple[int, int, int]], width: int
) -> None:
    objectives = [ACCURACY, MACS, PARAMS][:width]
    limit = Constraint("params", "<=", 3)
    growing = IncrementalFront(objectives, [limit])
    seen: list[Evaluation] = []
    before: set[str] = set()
    for seed, (accuracy, macs, params) in enumerate(rows):
        seen.append(evaluation(seed, accuracy / 4, macs, params))
        change = growing.add(seen[-1])
        fresh = front_of([e for e in seen if e.cost.params <= 3], objectives)
        names = {e.name for e in fresh}
        assert growing.members == fresh
        assert set(change.entered) == names - before
        assert set(change.left) == before - names
        before = names


def test_the_same_evaluation_again_changes_nothing() -> None:
    growing = IncrementalFront([ACCURACY, MACS])
    first, better = evaluation(0, 0.5, 100), evaluation(1, 0.6, 100)
    assert growing.add(first) == FrontChange(entered=(first.name,))
    assert growing.add(first) == FrontChange()
    assert growing.add(better) == FrontChange(entered=(better.name,), left=(first.name,))
    assert growing.add(first) == FrontChange()
    with pytest.raises(ValueError, match="was added before with other objectives"):
        growing.add(evaluation(0, 0.9, 100))


def test_feasibility_of_unknown_and_undefined_costs() -> None:
    plain = evaluation(0, 0.5, 100)
    assert is_feasible(plain, [Constraint("latency_ms", "<=", 1.0)])
    assert not is_feasible(plain, [Constraint("macs", "<=", 99)])
    assert is_feasible(plain, [Constraint("macs", ">=", 100)])
    assert not is_feasible(evaluation(1, math.nan, 1), [Constraint("val_accuracy", ">=", 0.1)])


@given(point_sets(least=1), st.integers(1, 3))
def test_first_fronts_are_peeled_one_by_one_with_one_of_equal_points(
    points: list[list[float]], layers: int
) -> None:
    kept = first_fronts(list(np.array(points).T), layers).tolist()
    left, expected = list(range(len(points))), []
    for _ in range(layers):
        best = [
            i for place, i in enumerate(left)
            if not any(dominates(points[j], points[i]) for j in left)
            and points[i] not in [points[j] for j in left[:place]]
        ]  # fmt: skip
        expected += best
        left = [i for i in left if i not in best]
    assert sorted(points[i] for i in kept) == sorted(points[i] for i in expected)
    assert len(set(kept)) == len(kept)


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_improvements_are_differences_of_hypervolumes(objectives: int) -> None:
    generator = np.random.default_rng(objectives)
    reference = np.ones(objectives)
    for count in (0, 1, 12):
        # Some are beyond the reference, some equal, some dominated.
        known = np.round(generator.random((count, objectives)) * 1.2, 1)
        points = np.round(generator.random((40, objectives)) * 1.2, 1)
        before = hypervolume(known, reference)
        after = [hypervolume(np.vstack([known, one]), reference) for one in points]
        found = improvements(points, known, reference)
        np.testing.assert_allclose(found, np.array(after) - before, atol=1e-12)
        assert (found > 1e-9).any() and (found < 1e-9).any()
