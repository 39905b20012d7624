"""Each tracker of a search is told everything, in order, whatever happens to the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nas_theseus.errors import ServiceError, StorageError, UnknownNameError
from nas_theseus.searches import trackers as module
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.trackers import CallbackTracker, Tracker, Trackers, make_trackers
from nas_theseus.storage.json_lines import JsonLines
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import Cost, Evaluation, Failure, Outcome, Stopped
from nas_theseus.values.registers import TRACKERS
from nas_theseus.values.tracking import EndStatus, FrontNow, Parameter, Results, TrackerContext


def architecture(width: int) -> Architecture:
    return Architecture((BlockChoice(Span(0, 3), "depthwise", (("expand", width),)),))


def evaluation(width: int) -> Evaluation:
    cost = Cost({"macs": 1000 * width, "params": 10 * width})
    return Evaluation(architecture(width), "full", 3, {"val_accuracy": 0.8}, cost, 12345, 2.5)


def failure(width: int) -> Failure:
    return Failure(architecture(width), "full", 3, "worker", "killed")


def front(step: int) -> FrontNow:
    return FrontNow((architecture(step).id,), {"hypervolume": step / 10}, step)


RESULTS = Results({architecture(1).id: 0}, {})


@dataclass
class Fake:
    """Remembers what it was told; raises while it is `down` and for what is in `poison`."""

    down: bool = False
    poison: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)
    error: type[Exception] = OSError
    told: list[str] = field(default_factory=list)
    calls: int = 0
    undelivered: int = 0

    def _tell(self, what: str) -> None:
        self.calls += 1
        if self.down or what in self.poison:
            raise self.error(f"no room for {what}")
        self.told.append(what)

    def begin(self, parameters: Mapping[str, Parameter]) -> None:
        self._tell("begin")

    def has(self, outcome: Outcome) -> bool:
        if self.down:
            raise OSError("cannot look")
        return outcome.name in self.known

    def outcome(self, outcome: Outcome) -> None:
        self._tell(outcome.name)

    def front(self, front: FrontNow) -> None:
        self._tell(f"front {front.step}")

    def results(self, results: Results) -> None:
        self._tell("results")

    def end(self, status: EndStatus) -> int:
        self._tell(status)
        return self.undelivered


@dataclass
class Stage:
    """A fan-out over trackers, the disk of its search, and what the user saw."""

    folder: SearchFolder
    said: list[str] = field(default_factory=list)

    def of(self, callbacks: Mapping[str, Tracker] | None = None, **trackers: Tracker) -> Trackers:
        return Trackers(trackers, callbacks or {}, self.folder.read_outcome, self.said.append)

    def outcome(self, trackers: Trackers, outcome: Outcome, saved: bool = True) -> None:
        if saved:
            self.folder.write_outcome(outcome)
        trackers.outcome(outcome)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    folder = SearchFolder(tmp_path, "one")
    folder.create()
    return Stage(folder)


def names(*widths: int) -> list[str]:
    return [evaluation(width).name for width in widths]


def waiting(trackers: Trackers) -> list[object]:
    """What waits in memory for the first tracker."""
    member = trackers._members[0]
    return [record.content for record in (*member._aside, *member._waiting)]


def test_all_are_told_in_order(stage: Stage) -> None:
    one, two = Fake(), Fake(undelivered=3)
    trackers = stage.of(one=one, two=two)
    trackers.begin({"trials": 2})
    stage.outcome(trackers, evaluation(1))
    trackers.front(front(1))
    stage.outcome(trackers, failure(2))
    trackers.results(RESULTS)
    assert trackers.end("FINISHED") == 3
    told = ["begin", *names(1), "front 1", *names(2), "results", "FINISHED"]
    assert one.told == two.told == told
    assert stage.said == []


def test_records_of_one_that_fails_wait_and_come_in_order(stage: Stage) -> None:
    sound, weak = Fake(), Fake()
    trackers = stage.of(weak=weak, sound=sound)
    trackers.begin({})
    weak.down = True
    stage.outcome(trackers, evaluation(1))
    trackers.front(front(1))
    assert sound.told == ["begin", *names(1), "front 1"]
    assert weak.told == ["begin"]
    weak.down = False
    stage.outcome(trackers, evaluation(2))
    assert weak.told == sound.told == ["begin", *names(1), "front 1", *names(2)]
    assert trackers.end("FINISHED") == 0


def test_a_failure_is_shown_once_in_one_line(stage: Stage) -> None:
    weak = Fake()
    trackers = stage.of(weak=weak)
    trackers.begin({})
    weak.poison = {*names(1), "front 1"}
    stage.outcome(trackers, evaluation(1))
    trackers.front(front(1))
    (line,) = stage.said
    assert line.startswith("tracker weak failed") and "\n" not in line
    assert f"OSError: no room for {names(1)[0]}" in line


@pytest.mark.parametrize(("error", "traced"), [(OSError, True), (StorageError, False)])
def test_only_unexpected_failures_are_logged_with_a_traceback(
    stage: Stage, caplog: pytest.LogCaptureFixture, error: type[Exception], traced: bool
) -> None:
    weak = Fake(poison={*names(1)}, error=error)
    trackers = stage.of(weak=weak)
    trackers.begin({})
    stage.outcome(trackers, evaluation(1))
    (first, *_) = [record for record in caplog.records if "no room for" in record.getMessage()]
    assert bool(first.exc_info) is traced


def test_one_record_that_always_fails_does_not_hold_back_the_rest(stage: Stage) -> None:
    weak = Fake(poison={*names(1), *names(2)})
    trackers = stage.of(weak=weak)
    trackers.begin({})
    for width in range(1, 12):
        stage.outcome(trackers, evaluation(width))
    assert set(weak.told) == {"begin", *names(*range(3, 12))}
    assert [name for name in weak.told if name != "begin"] == names(*range(3, 12))
    weak.poison = set(names(1))
    assert trackers.end("FINISHED") == 1
    assert weak.told[-2:] == [*names(2), "FINISHED"]


def test_one_that_is_down_is_called_at_most_once_a_record(stage: Stage) -> None:
    weak = Fake(down=True)
    trackers = stage.of(weak=weak)
    for width in range(1, 31):
        stage.outcome(trackers, evaluation(width))
    assert weak.calls == 30
    weak.down = False
    for width in range(31, 33):
        stage.outcome(trackers, evaluation(width))
    assert sorted(weak.told) == sorted(names(*range(1, 33)))


def test_what_waits_is_tried_again_at_the_end(stage: Stage) -> None:
    weak = Fake(down=True)
    trackers = stage.of(weak=weak)
    for width in range(1, 9):
        stage.outcome(trackers, evaluation(width))
    trackers.results(RESULTS)
    weak.down = False
    assert trackers.end("FINISHED") == 0
    assert weak.told == [*names(*range(1, 9)), "results", "FINISHED"]


def test_the_end_counts_what_none_could_take(stage: Stage) -> None:
    weak, slow = Fake(down=True), Fake(undelivered=2)
    trackers = stage.of(weak=weak, slow=slow)
    stage.outcome(trackers, evaluation(1))
    trackers.front(front(1))
    # Two records and the end itself of one; two that the other says it has not delivered.
    assert trackers.end("KILLED") == 5
    assert slow.told == [*names(1), "front 1", "KILLED"]


def test_the_end_takes_limited_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    weak = Fake(down=True)
    trackers = stage.of(weak=weak)
    for width in range(1, 5):
        stage.outcome(trackers, evaluation(width))
    calls, weak.down = weak.calls, False
    monkeypatch.setattr(module, "END_LIMIT_S", -1.0)
    assert trackers.end("FINISHED") == 4
    assert weak.calls == calls + 1


def test_outcomes_on_disk_wait_as_names_and_others_as_they_are(stage: Stage) -> None:
    weak = Fake(down=True)
    trackers = stage.of(weak=weak)
    stopped = Stopped("epoch_1", evaluation(2), {"val_accuracy": 0.9})
    for outcome in (evaluation(1), stopped):
        stage.outcome(trackers, outcome)
    dead = failure(3)
    stage.outcome(trackers, dead, saved=False)  # a dead worker saves nothing
    assert waiting(trackers) == [*names(1, 2), dead]


def test_an_outcome_that_is_gone_from_the_disk_is_not_waited_for(stage: Stage) -> None:
    weak = Fake(down=True)
    trackers = stage.of(weak=weak)
    stage.outcome(trackers, evaluation(1))
    for path in stage.folder.evaluations.glob("*.json"):
        path.unlink()
    weak.down = False
    assert trackers.end("FINISHED") == 0
    assert weak.told == ["FINISHED"]


def test_of_fronts_the_last_ones_wait(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FRONTS", 5)
    weak = Fake(down=True)
    trackers = stage.of(weak=weak)
    for step in range(1, 40):
        trackers.front(front(step))
    assert len(waiting(trackers)) <= 5
    weak.down = False
    trackers.end("FINISHED")
    assert weak.told[-2:] == ["front 39", "FINISHED"]


def test_a_resumed_search_sends_each_what_it_lacks(stage: Stage) -> None:
    one, two = Fake(known=set(names(1, 2))), Fake(known=set(names(2)))
    lost = Fake(down=True)
    trackers = stage.of(one=one, two=two, lost=lost)
    for width in (1, 2, 3):
        stage.folder.write_outcome(evaluation(width))
    trackers.resume(stage.folder.outcomes())
    assert one.told == names(3)
    assert sorted(two.told) == sorted(names(1, 3))
    lost.down = False
    assert trackers.end("FINISHED") == 0
    assert sorted(lost.told) == sorted([*names(1, 2, 3), "FINISHED"])


class Absent(Fake):
    def begin(self, parameters: Mapping[str, Parameter]) -> None:
        raise ServiceError("nobody answers")


def test_one_that_cannot_begin_ends_the_search_before_it_trains(stage: Stage) -> None:
    first, last = Fake(), Fake()
    with pytest.raises(ServiceError, match="nobody answers"):
        stage.of(first=first, absent=Absent(), last=last).begin({})
    assert first.told == ["begin", "KILLED"]
    assert last.told == []


def test_any_other_error_at_the_beginning_names_the_tracker(stage: Stage) -> None:
    with pytest.raises(ServiceError, match="tracker odd cannot begin: OSError: no room for begin"):
        stage.of(odd=Fake(down=True)).begin({})


def test_ctrl_c_in_a_tracker_stops_the_search(stage: Stage) -> None:
    class Interrupted(Fake):
        def outcome(self, outcome: Outcome) -> None:
            raise KeyboardInterrupt

    trackers = stage.of(one=Interrupted())
    with pytest.raises(KeyboardInterrupt):
        trackers.outcome(evaluation(1))


class Diary:
    """A callback with some of the methods."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def begin(self, parameters: Mapping[str, Parameter]) -> None:
        raise ValueError("not ready\nyet")

    def outcome(self, outcome: Outcome) -> None:
        self.told.append(outcome.name)

    def end(self, status: str) -> None:
        self.told.append(status)


def context(stage: Stage) -> TrackerContext:
    folder = stage.folder
    return TrackerContext("one", "me", folder.folder, folder.outbox, folder.runs_file)


def test_callbacks_are_told_every_outcome_and_stop_nothing(stage: Stage) -> None:
    diary, seen, sound = Diary(), list[str](), Fake()

    def note(outcome: Outcome) -> None:
        seen.append(outcome.name)
        raise RuntimeError("a mistake of the user")

    read, say = stage.folder.read_outcome, stage.said.append
    TRACKERS.add("fake", lambda context: sound)
    trackers = make_trackers(["fake"], [diary, note], context(stage), read, say)
    trackers.begin({})
    for width in (1, 2):
        stage.outcome(trackers, evaluation(width))
        trackers.front(front(width))
    trackers.results(RESULTS)
    # Its beginning that failed, and the two outcomes, which were tried again.
    assert trackers.end("FINISHED") == 3
    assert diary.told == [*names(1, 2), "FINISHED"]
    assert set(seen) == set(names(1, 2))
    assert sound.told == [
        "begin",
        *names(1),
        "front 1",
        *names(2),
        "front 2",
        "results",
        "FINISHED",
    ]
    assert stage.said == [
        "callback Diary failed and will be tried again; the search continues: "
        "ValueError: not ready yet",
        "callback note failed and will be tried again; the search continues: "
        "RuntimeError: a mistake of the user",
    ]


def test_a_resumed_search_repeats_no_outcome_to_a_callback(stage: Stage) -> None:
    read, say = stage.folder.read_outcome, stage.said.append
    seen: list[str] = []

    def note(outcome: Outcome) -> None:
        seen.append(outcome.name)

    def launch() -> Trackers:
        trackers = make_trackers([], [note], context(stage), read, say)
        trackers.begin({})
        trackers.resume(stage.folder.outcomes())
        return trackers

    stage.outcome(launch(), failure(1))
    # The search was killed after a worker saved these and before anyone was told.
    stage.folder.write_outcome(evaluation(1))
    stage.folder.write_outcome(evaluation(2))
    launch()
    launch()
    assert seen[0] == names(1)[0]
    assert sorted(seen) == sorted(names(1, 1, 2))


def test_two_callbacks_of_one_name_are_told_apart(stage: Stage) -> None:
    first, second = Diary(), Diary()
    read, say = stage.folder.read_outcome, stage.said.append
    trackers = make_trackers([], [first, second], context(stage), read, say)
    stage.outcome(trackers, evaluation(1))
    assert first.told == second.told == names(1)
    files = (stage.folder.folder / "callbacks").iterdir()
    assert sorted(file.name for file in files) == ["Diary-2.jsonl", "Diary.jsonl"]


def test_a_callback_is_called_once_where_that_cannot_be_noted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the place of a folder")
    diary = Diary()
    told = JsonLines(tmp_path / "file" / "told.jsonl")
    with pytest.raises(StorageError):
        told.append({})
    CallbackTracker(diary, told).outcome(evaluation(1))
    assert diary.told == names(1)


def test_an_unknown_tracker_is_refused_with_the_names_that_exist(stage: Stage) -> None:
    with pytest.raises(UnknownNameError, match="unknown tracker 'wandb'; use .*json-lines"):
        make_trackers(["wandb"], [], context(stage), stage.folder.read_outcome, stage.said.append)
