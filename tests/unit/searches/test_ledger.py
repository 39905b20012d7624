"""What a ledger sums up."""

from __future__ import annotations

from dataclasses import replace

from nas_theseus.estimate.pareto import IncrementalFront
from nas_theseus.estimate.rungs import RungRecord
from nas_theseus.searches.ledger import Ledger
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.goals import Constraint, Objective
from nas_theseus.values.outcomes import Cost, Evaluation, Failure, Stopped

GOALS = (Objective("val_accuracy", "maximize"), Objective("macs", "minimize"))
FLOOR = Constraint("val_accuracy", ">=", 0.1, chance=True)


def evaluation(block: str, accuracy: float) -> Evaluation:
    architecture = Architecture([BlockChoice(Span(0, 1), block)])
    cost = Cost({"macs": 100})
    return Evaluation(architecture, "r", 0, {"val_accuracy": accuracy}, cost, 1_000, 2.5)


def test_progress_is_the_sum_of_what_was_added_once_each() -> None:
    front, rungs = IncrementalFront(GOALS, [FLOOR]), RungRecord((), GOALS, [FLOOR])
    ledger = Ledger(9, GOALS, {"val_accuracy": 0.0, "macs": 200.0}, front, rungs)
    good, chance = evaluation("basic", 0.9), evaluation("linear", 0.1)
    stopped = Stopped("early", evaluation("token_mlp", 0.5), {"val_accuracy": 0.6}, 300)
    failed = Failure(good.architecture, "r", 0, "worker", "gone")
    ledger.add(failed)
    assert (ledger.progress.done, ledger.progress.failed) == (0, 1)
    for outcome in (good, chance, stopped):
        ledger.add(outcome)  # the first replaces its failure
    other = Failure(evaluation("depthwise", 0.0).architecture, "r", 0, "align", "diverged")
    for outcome in (other, replace(good, seconds=99.0), failed):
        ledger.add(outcome)  # of what is there, nothing counts again
    progress = ledger.progress
    assert (progress.done, progress.stopped, progress.failed) == (2, 1, 1)
    assert (progress.at_chance, progress.front) == (1, (good.architecture.id,))
    assert (progress.train_macs, progress.macs_saved, progress.seconds) == (3_000, 300, 7.5)
