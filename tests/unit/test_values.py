"""The frozen values: ids, joins, round trips."""

from __future__ import annotations

import json

import pytest

from nas_theseus.values import (
    Architecture,
    BlockChoice,
    Boundary,
    Constraint,
    Cost,
    CurvePoint,
    Evaluation,
    Failure,
    Span,
    Stopped,
    derive_seed,
)


def architecture(width: int = 2) -> Architecture:
    return Architecture(
        (
            BlockChoice(Span(0, 1), "keep"),
            BlockChoice(Span(1, 3), "depthwise", (("expand", width), ("kernel", 3))),
        )
    )


def test_an_id_depends_on_the_choices_alone_and_survives_json() -> None:
    first = architecture()
    assert Architecture.from_json(first.to_json()) == first
    assert Architecture.from_json(first.to_json()).id == first.id
    assert architecture(4).id != first.id
    assert first.id == "".join(c for c in first.id if c in "0123456789abcdef")
    assert first.pairing == "0|1-2"
    assert first.blocks == "keep|depthwise(expand=2, kernel=3)"


@pytest.mark.parametrize("spans", [[(0, 1), (2, 3)], [(0, 2), (1, 3)], [(1, 2)], []])
def test_spans_that_do_not_join_are_refused(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match=r"must join|at least one"):
        Architecture(tuple(BlockChoice(Span(a, b), "keep") for a, b in spans))


def test_json_that_is_no_architecture_says_what_one_is() -> None:
    with pytest.raises(ValueError, match="an architecture is a list of"):
        Architecture.from_json([{"block": "keep"}])


def test_outcomes_survive_json() -> None:
    evaluation = Evaluation(
        architecture(), "r", 3, {"val_accuracy": 0.5}, Cost(10, 5, 1.5), 7, 0.25,
        (CurvePoint("train_loss", 1, 2.0),), ("note",),
    )  # fmt: skip
    assert Evaluation.from_json(evaluation.to_json()) == evaluation
    assert evaluation.values() == {"val_accuracy": 0.5, "macs": 10, "params": 5, "latency_ms": 1.5}
    failure = Failure(architecture(), "r", 3, "convert", "diverged", evaluation.curve)
    assert Failure.from_json(failure.to_json()) == failure
    stopped = Stopped("epoch_1", evaluation, {"val_accuracy": 0.75}, 30)
    assert Stopped.from_json(json.loads(json.dumps(stopped.to_json()))) == stopped
    assert stopped.name == evaluation.name == failure.name
    assert stopped.values() == {**evaluation.values(), "val_accuracy": 0.75}


def test_a_seed_derives_from_names_and_their_order() -> None:
    assert derive_seed("a", 1) == derive_seed("a", "1")
    assert derive_seed("a", 1) != derive_seed(1, "a")
    assert 0 <= derive_seed("x") < 2**31


def test_a_violation_is_a_share_of_the_limit() -> None:
    limit = Constraint("macs", "<=", 100)
    assert limit.violation({"macs": 150}) == pytest.approx(0.5)
    assert limit.violation({"macs": 100}) == 0
    assert limit.violation({}) == 0
    assert Constraint("val_accuracy", ">=", 0.5).violation({"val_accuracy": 0.4}) > 0


def test_boundary_kinds() -> None:
    assert Boundary((3, 8, 8)).kind == "map" and Boundary((3, 8, 8)).width == 3
    assert Boundary((5, 7)).kind == "tokens" and Boundary((5, 7)).width == 7
    assert Boundary((7,)).kind == "vector"
    assert Boundary((7,), integer=True).kind == "ids"
    with pytest.raises(ValueError, match="a boundary is"):
        _ = Boundary((1, 2, 3, 4)).kind
