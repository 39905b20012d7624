"""Outcomes: round trips, values by name."""

from __future__ import annotations

import json

from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import Cost, CurvePoint, Evaluation, Failure, Stopped

ARCHITECTURE = Architecture(
    (BlockChoice(Span(0, 1), "keep"), BlockChoice(Span(1, 3), "depthwise", (("expand", 2),)))
)


def test_outcomes_survive_json() -> None:
    evaluation = Evaluation(
        ARCHITECTURE, "r", 3, {"val_accuracy": 0.5}, Cost(10, 5, 1.5), 7, 0.25,
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
