"""A tracker that is no part of the package: a space file adds it, and a search names it."""

from __future__ import annotations

import csv
from pathlib import Path

from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.trackers import make_trackers
from nas_theseus.space.load import load_space
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import Cost, Evaluation, Failure
from nas_theseus.values.registers import TRACKERS
from nas_theseus.values.tracking import FrontNow, Results, TrackerContext

SPACE = '''
"""A space whose file brings a tracker, which writes a table, and a callback, which counts."""

import csv

from torch import nn

from nas_theseus import SearchSpace, cut
from nas_theseus.blocks import Depthwise, Keep
from nas_theseus.tasks import digits
from nas_theseus.values.registers import TRACKERS


class Table:
    """One row for each outcome, in table.csv of the search's folder."""

    def __init__(self, context):
        self.path = context.folder / "table.csv"

    def _rows(self):
        return list(csv.reader(self.path.open())) if self.path.exists() else []

    def _add(self, *row):
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)

    def begin(self, parameters):
        if not self._rows():
            self._add("name", *sorted(parameters))

    def has(self, outcome):
        return any(row[0] == outcome.name for row in self._rows())

    def outcome(self, outcome):
        self._add(outcome.name, type(outcome).__name__)

    def front(self, front):
        self._add("front", *front.ids)

    def results(self, results):
        self._add("ranks", *results.ranks.values())

    def end(self, status):
        self._add(status)
        return 0


TRACKERS.add("table", Table)
COUNTED = []


def space():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    net = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1), head)
    return SearchSpace(
        cut(net, ["0", "1"], (1, 8, 8)), digits(), [Keep(), Depthwise()],
        callbacks=[COUNTED.append],
    )
'''


def test_a_tracker_and_a_callback_of_a_space_file(tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(SPACE)
    space = load_space(tmp_path / "space.py")
    assert "table" in TRACKERS and "table" in TRACKERS.one_of

    folder = SearchFolder(tmp_path, "one")
    folder.create()
    context = TrackerContext("one", "me", folder.folder, folder.outbox, folder.runs_file)
    said: list[str] = []
    first, second = list(space.choices(Span(0, 1)))[:2]
    rest = BlockChoice(Span(1, 2), "keep"), BlockChoice(Span(2, 3), "keep")
    evaluation = Evaluation(
        Architecture((first, *rest)),
        "full",
        3,
        {"val_accuracy": 0.8},
        Cost({"macs": 1000, "params": 10}),
        1,
        2.5,
    )
    failure = Failure(Architecture((second, *rest)), "full", 3, "align", "loss is nan")

    def launch(status: str) -> None:
        trackers = make_trackers(
            ["table", "json-lines"], space.callbacks, context, folder.read_outcome, said.append
        )
        trackers.begin({"seed": 3})
        trackers.resume(folder.outcomes())
        if status == "FINISHED":
            folder.write_outcome(failure)
            trackers.outcome(failure)
            trackers.front(FrontNow((evaluation.architecture.id,), {}, 2))
            trackers.results(Results({evaluation.architecture.id: 0}, {}))
            assert trackers.end("FINISHED") == 0

    folder.write_outcome(evaluation)  # by a worker, before its search was killed
    launch("killed")
    launch("FINISHED")
    rows = list(csv.reader((folder.folder / "table.csv").open()))
    assert rows == [
        ["name", "seed"],
        [evaluation.name, "Evaluation"],
        [failure.name, "Failure"],
        ["front", evaluation.architecture.id],
        ["ranks", "0"],
        ["FINISHED"],
    ]
    [counted] = [callback.__self__ for callback in space.callbacks]  # type: ignore[attr-defined]
    assert counted == [evaluation, failure]
    assert said == []
