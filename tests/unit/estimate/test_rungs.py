"""Who goes on from a rung, what is predicted of the others, and what rungs tell of the end."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from nas_theseus import Recipe, maximize, minimize
from nas_theseus.estimate.pareto import ranks
from nas_theseus.estimate.rungs import RungRecord, standing
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.conditions import parse_constraint
from nas_theseus.values.goals import Objective
from nas_theseus.values.outcomes import Cost, CurvePoint, Evaluation
from nas_theseus.values.rung import rungs_of

RECIPE = Recipe(epochs=8)
GOALS = (maximize("val_accuracy"), minimize("macs"))


def candidate(
    number: int, qualities: Sequence[float], macs: int = 1000, metric: str = "val_accuracy"
) -> Evaluation:
    """At rungs `converted`, `epoch_2`, `epoch_4` and the end, as far as qualities go."""
    chosen = Architecture((BlockChoice(Span(0, 1), "basic", (("width", number),)),))
    steps = zip((0, 2, 4, 8), qualities, strict=False)
    curve = tuple(CurvePoint(metric, step, quality) for step, quality in steps)
    metrics = {metric: qualities[-1]}
    return Evaluation(chosen, "r", 0, metrics, Cost({"macs": macs, "params": 1}), 0, 0.0, curve)


def record(
    finished: Sequence[Evaluation],
    goals: Sequence[Objective] = GOALS,
    limits: Sequence[str] = (),
) -> RungRecord:
    rungs = rungs_of(RECIPE, goals[0].name)
    found = RungRecord(rungs, goals, [parse_constraint(text) for text in limits])
    for evaluation in finished:
        found.take(evaluation, finished=True)
    return found


def promotes(found: RungRecord, evaluation: Evaluation, rung: str = "converted") -> bool:
    found.take(evaluation, finished=False)
    return found.promotes(evaluation, rung)


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_standings_order_by_rank_then_contribution(objectives: int) -> None:
    points = np.random.default_rng(objectives).random((12, objectives))
    found = [standing(points, row) for row in range(12)]
    assert sorted(before for _, before in found) == list(range(12))
    assert [rank for rank, _ in found] == ranks(points)
    for one, other in itertools.permutations(range(12), 2):
        if found[one][0] < found[other][0]:
            assert found[one] < found[other]


def test_within_a_rank_the_lonely_stand_before_the_crowded() -> None:
    points = [[0.0, 8.0], [4.0, 4.5], [4.5, 4.0], [8.0, 0.0]]
    assert [standing(points, row) for row in range(4)] == [(0, 0), (0, 2), (0, 2), (0, 0)]
    assert [standing([[1, 1], [1, 1], [2, 2]], row) for row in range(3)] == [(0, 0), (0, 0), (1, 2)]


def test_nobody_is_stopped_before_five_have_finished() -> None:
    best = [candidate(i, [0.9 + i / 100] * 4) for i in range(5)]
    assert promotes(record(best[1:]), candidate(9, [0.1]))
    assert not promotes(record(best), candidate(9, [0.1]))


def test_a_rung_stops_nobody_where_it_does_not_tell_the_end() -> None:
    """As untrained assemblies may not: what imitates badly may train well."""
    rows = [(0.5, 0.5), (0.4, 0.6), (0.3, 0.7), (0.2, 0.8), (0.1, 0.9)]
    found = record([candidate(i, [there, end, end, end]) for i, (there, end) in enumerate(rows)])
    assert found.correlations()["converted"] == pytest.approx(-1)
    worst = candidate(9, [0.01, 0.01, 0.01])
    assert promotes(found, worst) and not found.promotes(worst, "epoch_2")


def test_the_better_half_and_the_front_of_a_rung_go_on() -> None:
    ends = (0.9, 0.8, 0.7, 0.6, 0.5)
    done = [candidate(i, [q, q, q, q], 1000 + i) for i, q in enumerate(ends)]
    assert promotes(record(done), candidate(9, [0.75], 1001))  # third of six
    assert not promotes(record(done), candidate(9, [0.65], 1002))  # fourth
    assert promotes(record(done), candidate(9, [0.1], 10))  # on the front, whatever its quality
    # What counts is the rung itself: these are better at the end, which is not yet known.
    late = [candidate(i, [q / 2, q / 2, q, q], 1000 + i) for i, q in enumerate(ends)]
    assert promotes(record(late), candidate(9, [0.6, 0.6], 1010), "epoch_2")
    assert not promotes(record(late), candidate(9, [0.6, 0.6, 0.6], 1010), "epoch_4")


def test_a_decision_does_not_depend_on_the_order_in_which_candidates_came() -> None:
    rng = np.random.default_rng(0)
    qualities = np.sort(rng.random(30))
    done = [candidate(i, [q] * 4, int(rng.integers(1000))) for i, q in enumerate(qualities)]
    new = [candidate(30 + i, [rng.random()], int(rng.integers(1000))) for i in range(20)]
    told = []
    for _ in range(3):
        found = record([done[i] for i in rng.permutation(30)])
        told.append([(promotes(found, one), found.predict(one, "converted")) for one in new])
    assert told[0] == told[1] == told[2]
    assert 3 < sum(on for on, _ in told[0]) < 17


def test_stopped_ones_stay_in_the_comparison_and_failed_ones_do_not() -> None:
    found = record([candidate(i, [0.5 + i / 10] * 4, 1000) for i in range(5)])
    middling = candidate(5, [0.4], 1000)
    assert not promotes(found, middling)
    for number in range(6, 12):
        assert not promotes(found, candidate(number, [0.1 + number / 1000], 1000))
    assert promotes(found, middling)
    for number in range(6, 12):
        found.forget(candidate(number, [0.1]).architecture.id)
    assert not promotes(found, middling)


def test_one_that_runs_again_is_compared_as_it_is_now() -> None:
    found = record([candidate(i, [0.5 + i / 10] * 4, 1000) for i in range(5)])
    for number in range(6, 13):
        assert promotes(found, candidate(number, [0.95, 0.1], 1000))
    for number in range(6, 13):  # their worker died; they have come to the first rung again
        found.take(candidate(number, [0.95], 1000), finished=False)
    assert not promotes(found, candidate(14, [0.2, 0.2], 1000), "epoch_2")


def test_a_measured_cost_beyond_its_limit_stops_at_once() -> None:
    slow = candidate(1, [0.9])
    slow = replace(slow, cost=Cost({**slow.cost.known(), "latency_ms": 3.0}))
    goals = (maximize("val_accuracy"), minimize("latency_ms"))
    found = record([], goals, ["latency_ms <= 2", "val_accuracy >= 0.95"])
    assert not promotes(found, slow)
    assert found.predict(slow, "converted") == 0.9
    quick = replace(slow, cost=Cost({**slow.cost.known(), "latency_ms": 1.0}))
    assert promotes(found, quick)  # its quality may still come to keep its limit


def test_a_prediction_adds_the_mean_gain_where_gains_are_alike() -> None:
    done = [candidate(i, [q, q, q, q + 0.2]) for i, q in enumerate((0.3, 0.5, 0.6, 0.7))]
    assert record(done).predict(candidate(9, [0.1]), "converted") == pytest.approx(0.3)


def test_a_prediction_is_no_better_than_the_best_end() -> None:
    done = [candidate(i, [q, q, q, q + 0.3]) for i, q in enumerate((0.3, 0.5, 0.6))]
    assert record(done).predict(candidate(9, [0.8]), "converted") == pytest.approx(0.9)


def test_a_prediction_sees_that_the_worse_gain_more_but_never_turns_the_order() -> None:
    done = [candidate(i, [q, q, q, 0.8 + q / 10]) for i, q in enumerate((0.2, 0.4, 0.6, 0.8))]
    assert record(done).predict(candidate(9, [0.1]), "converted") == pytest.approx(0.81)
    turned = [candidate(i, [q, q, q, 0.9 - q / 10]) for i, q in enumerate((0.2, 0.4, 0.6, 0.8))]
    assert record(turned).predict(candidate(9, [0.1]), "converted") == pytest.approx(0.85)


def test_a_perplexity_is_predicted_in_logarithms() -> None:
    goals = (minimize("val_perplexity"), minimize("macs"))
    done = [candidate(i, [q, q, q, q / 4], 1, "val_perplexity") for i, q in enumerate((8, 16, 64))]
    found = record(done, goals)
    assert found.predict(candidate(9, [1024], 1, "val_perplexity"), "converted") == pytest.approx(
        256
    )


def test_correlations_count_concordant_pairs_of_those_that_finished() -> None:
    rows = [(0.1, 0.3, 0.2, 0.5), (0.2, 0.1, 0.3, 0.6), (0.3, 0.2, 0.4, 0.7), (0.4, 0.5, 0.6, 0.9)]
    done = [candidate(i, row) for i, row in enumerate(rows)]
    found = record(done)
    assert (found.correlations(), found.finished) == ({}, 4)
    found.take(candidate(8, [0.9, 0.9]), finished=False)
    assert (found.correlations(), found.finished) == ({}, 4)  # a stopped one has no end
    found.take(candidate(9, (0.5, 0.4, 0.5, 0.8)), finished=True)
    rungs = found.correlations()
    ends = [row[-1] for row in rows] + [0.8]
    for place, name in enumerate(("converted", "epoch_2", "epoch_4")):
        there = [row[place] for row in rows] + [(0.5, 0.4, 0.5)[place]]
        signs = [
            np.sign((there[i] - there[j]) * (ends[i] - ends[j]))
            for i, j in itertools.combinations(range(5), 2)
        ]
        assert rungs[name] == pytest.approx(sum(signs) / 10)
    assert rungs["epoch_4"] == pytest.approx(1)
    flat = record([candidate(i, (0.1, q, q, q)) for i, q in enumerate((0.1, 0.2, 0.3, 0.4, 0.5))])
    assert flat.correlations().keys() == {"epoch_2", "epoch_4"}  # of equal values there is none


def test_the_guide_which_trains_nothing_reaches_no_rung() -> None:
    guide = replace(candidate(1, [0.9]), curve=())
    assert record([guide]).finished == 0
