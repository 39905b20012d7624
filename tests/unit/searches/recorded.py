"""A small search as its folder records it, made by hand: nothing is trained."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from nas_theseus.searches.basis import Basis
from nas_theseus.searches.beginning import Beginning
from nas_theseus.searches.chance import Chance
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.records import Records
from nas_theseus.storage.whole_files import write_json
from nas_theseus.values.architecture import Architecture, BlockChoice, Span, span_of
from nas_theseus.values.goals import Constraint, Objective
from nas_theseus.values.outcomes import (
    BlockOutcome,
    Cost,
    CurvePoint,
    Evaluation,
    Failure,
    Outcome,
    Stopped,
)
from nas_theseus.values.rung import Rung

PARTS = ("stem", "one", "two", "head<1>")
GOALS = (Objective("val_accuracy", "maximize"), Objective("macs", "minimize", log=True))
RUNGS = (Rung("converted", "val_accuracy", 0), Rung("epoch_1", "val_accuracy", 1))
GUIDE = {"val_accuracy": 0.95, "macs": 1000, "params": 500}
REFERENCE = {"val_accuracy": 0.5, "macs": 1000}
EXAMPLES = 400
CHANCE = Chance(
    "val_accuracy",
    tuple(0.6 + 0.001 * number for number in range(200)),
    {"macs": tuple(200.0 + 4 * number for number in range(200))},
    0.25,
    10,
)
BEGAN = 1_700_000_000
# Spans of one or two parts before the head, and a width (0: the guide's part) for each.
_SHAPES: tuple[tuple[tuple[int, int], ...], ...] = (
    ((1, 0), (1, 0), (1, 0)), ((1, 2), (1, 2), (1, 2)), ((2, 3), (1, 1)), ((1, 1), (2, 2)),
    ((1, 4), (1, 0), (1, 3)), ((1, 1), (1, 1), (1, 4)), ((2, 1), (1, 1)), ((1, 0), (2, 4)),
    ((1, 3), (1, 2), (1, 0)), ((1, 4), (1, 4), (1, 1)),
)  # fmt: skip
_STOPPED = (((1, 1), (1, 2), (1, 3)), ((2, 2), (1, 0)))
_FAILED = (((1, 2), (1, 1), (1, 0)), ((2, 4), (1, 4)), ((1, 0), (1, 0), (1, 4)))


def architecture(shape: Sequence[tuple[int, int]]) -> Architecture:
    choices, start = [], 0
    for length, width in shape:
        span = span_of(start, start + length, PARTS)
        options = (("width", width),) if width else ()
        choices.append(BlockChoice(span, "narrow" if width else "keep", options))
        start += length
    return Architecture((*choices, BlockChoice(Span(3, 4, PARTS[3:]), "keep")))


def evaluation(shape: Sequence[tuple[int, int]], reports: int = 2) -> Evaluation:
    """Wider blocks cost more and are better, though not always in the same order."""
    one = architecture(shape)
    macs = sum(length * (60 * width if width else 300) for length, width in shape) + 100
    lost = sum(0.3 / (2 + width + length) if width else 0.0 for length, width in shape)
    last = round(0.95 - lost + 0.02 * (int(one.id, 16) % 3), 4)
    values = (round(0.5 * last, 4), round(last - 0.05 * (int(one.id, 16) % 2), 4), last)
    curve = [CurvePoint("val_accuracy", step, v) for step, v in enumerate(values[: reports + 1])]
    curve.append(CurvePoint("similarity/0", 1, 0.75))
    metrics = {"val_accuracy": values[reports]}
    cost = Cost({"macs": macs, "params": macs // 2})
    return Evaluation(one, "recipe", 0, metrics, cost, 10 * macs, 1.5, tuple(curve))


class Recorded:
    """The folder of a search that finished ten candidates, stopped two, and failed three.

    Args:
        sampler: that the search began with.
    """

    def __init__(self, root: Path, name: str = "small", sampler: str = "theseus") -> None:
        self.folder = SearchFolder(root, name)
        self.folder.create()
        limits = (Constraint("macs", "<=", 1100.0),)
        Beginning(
            "me", sampler, 0, 0, True, True, GOALS, limits, "guide", "recipe", "study"
        ).write(self.folder)  # fmt: skip
        os.utime(self.folder.settings_file, (BEGAN, BEGAN))
        self._saved = BEGAN

    @property
    def records(self) -> Records:
        return Records.read(self.folder)

    def measure_guide(self) -> None:
        Basis(GUIDE, REFERENCE, RUNGS, EXAMPLES).write(self.folder)

    def save(self, outcome: Outcome) -> None:
        """One result a minute."""
        self._stamp(self.folder.write_outcome(outcome))

    def convert(self, name: str, failure: str | None = None) -> None:
        effort = (0, 0.0) if failure else (700, 0.25)
        self.folder.write_block(BlockOutcome(name, f"block {name}", *effort, failure))
        self._stamp(self.folder.blocks / f"{name}.json")

    def _stamp(self, path: Path) -> None:
        self._saved += 60
        os.utime(path, (self._saved, self._saved))

    def begin(self) -> None:
        """Some results, and no end."""
        self.measure_guide()
        for name in ("b1", "b2"):
            self.convert(name)
        for shape in _SHAPES[:3]:
            self.save(evaluation(shape))

    def finish(self) -> None:
        """All results, and the front's test scores and summary."""
        self.begin()
        self.convert("b3", "diverged <badly>")
        for shape in _STOPPED:
            half = evaluation(shape, reports=1)
            self.save(Stopped("epoch_1", half, {"val_accuracy": 0.8}, 5000))
        for shape in _FAILED[:2]:
            self.save(Failure(architecture(shape), "recipe", 0, "align", "not finite & gone"))
        self.save(Failure(architecture(_FAILED[2]), "recipe", 0, "finetune", "out of memory"))
        for shape in _SHAPES[3:]:
            self.save(evaluation(shape))
        for member in self.records.members:
            one = member.evaluation
            path = self.folder.front / one.architecture.id / "test.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"test_accuracy": one.value("val_accuracy") - 0.01}))
        counts = {"trials_done": 10.0, "trials_stopped": 2.0, "trials_failed": 3.0}
        blocks = {"blocks_reused": 4.0, "blocks_reused_macs": 2800.0}
        CHANCE.write(self.folder)
        guide = {**GUIDE, "test_accuracy": 0.94}
        write_json(self.folder.front / "front.json", {"guide": guide, **counts, **blocks})
