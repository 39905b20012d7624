"""Outcomes: round trips, values by name."""

from __future__ import annotations

import json

import pytest

from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import Cost, CurvePoint, Evaluation, Failure, Stopped

ARCHITECTURE = Architecture(
    (BlockChoice(Span(0, 1), "keep"), BlockChoice(Span(1, 3), "depthwise", (("expand", 2),)))
)


def test_outcomes_survive_json() -> None:
    cost = Cost({"macs": 10, "params": 5, "latency_ms": 1.5})
    evaluation = Evaluation(
        ARCHITECTURE, "r", 3, {"val_accuracy": 0.5}, cost, 7, 0.25,
        (CurvePoint("train_loss", 1, 2.0),), ("note",),
    )  # fmt: skip
    assert Evaluation.from_json(evaluation.to_json()) == evaluation
    assert evaluation.values() == {"val_accuracy": 0.5, "macs": 10, "params": 5, "latency_ms": 1.5}
    failure = Failure(ARCHITECTURE, "r", 3, "convert", "diverged", evaluation.curve)
    assert Failure.from_json(failure.to_json()) == failure
    stopped = Stopped("epoch_1", evaluation, {"val_accuracy": 0.75}, 30)
    assert Stopped.from_json(json.loads(json.dumps(stopped.to_json()))) == stopped
    assert stopped.name == evaluation.name == failure.name
    assert stopped.values() == {**evaluation.values(), "val_accuracy": 0.75}


def test_files_of_earlier_versions_have_null_where_a_cost_was_not_measured() -> None:
    data = Evaluation(ARCHITECTURE, "r", 3, {}, Cost({"macs": 10, "params": 5}), 7, 0.25).to_json()
    assert data["cost"] == {"macs": 10, "params": 5}
    data["cost"] |= {"latency_ms": 1.5, "peak_memory_bytes": None}
    assert Evaluation.from_json(data).cost == Cost({"macs": 10, "params": 5, "latency_ms": 1.5})


def test_costs_are_added_exactly_whatever_their_order() -> None:
    blocks = [Cost({"macs": 2**60 + i, "energy_mj": 0.1}) for i in range(30)]
    total = Cost.total(blocks)
    assert total.macs == 30 * 2**60 + 435 and isinstance(total["macs"], int)
    assert total["energy_mj"] == 3.0 == Cost.total(blocks[::-1])["energy_mj"]
    with pytest.raises(KeyError):
        total["params"]
