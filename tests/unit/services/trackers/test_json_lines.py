"""The tracker of JSON lines: what it writes, after kills and with a full disk too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nas_theseus.errors import StorageError
from nas_theseus.searches.trackers import Trackers, make_trackers
from nas_theseus.services.trackers.json_lines import JsonLinesTracker
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import Cost, Evaluation, Failure, Outcome, Stopped
from nas_theseus.values.tracking import FrontNow, ResultFiles, Results, TrackerContext


def architecture(width: int) -> Architecture:
    return Architecture((BlockChoice(Span(0, 3), "depthwise", (("expand", width),)),))


def evaluation(width: int) -> Evaluation:
    cost = Cost({"macs": 1000 * width, "params": 10 * width})
    return Evaluation(architecture(width), "full", 3, {"val_accuracy": 0.8}, cost, 12345, 2.5)


STOPPED = Stopped("epoch_1", evaluation(2), {"val_accuracy": 0.9}, 77)
FAILURE = Failure(architecture(3), "full", 3, "align", "loss is nan")
FRONT = FrontNow((architecture(1).id,), {"hypervolume": 0.5}, 1)


def context(folder: Path) -> TrackerContext:
    return TrackerContext("one", "me-1", folder, folder / "outbox", folder / "runs.json")


def begun(folder: Path) -> JsonLinesTracker:
    tracker = JsonLinesTracker(context(folder))
    tracker.begin({"trials": 4, "note": None})
    return tracker


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def kinds(folder: Path) -> list[str]:
    return [line["kind"] for line in lines(folder)]


def test_every_record_is_one_line(tmp_path: Path) -> None:
    tracker = begun(tmp_path)
    for outcome in (evaluation(1), STOPPED, FAILURE):
        tracker.outcome(outcome)
    tracker.front(FRONT)
    files = ResultFiles(tmp_path, ("front.html", "front.png"))
    tracker.results(Results({architecture(1).id: 0}, {architecture(1).id: {"test": 0.5}}, (files,)))
    assert tracker.end("FINISHED") == 0
    begin, first, stopped, failed, front, results, end = lines(tmp_path)
    assert begin["search"] == "one" and begin["identity"] == "me-1"
    assert begin["parameters"] == {"trials": 4, "note": None}
    assert first["kind"] == "evaluation" and first["name"] == evaluation(1).name
    assert first["architecture"] == architecture(1).id and first["blocks"] == "depthwise(expand=1)"
    assert first["values"] == {"val_accuracy": 0.8, "macs": 1000, "params": 10}
    assert Evaluation.from_json(first["outcome"]) == evaluation(1)
    assert stopped["kind"] == "stopped" and Stopped.from_json(stopped["outcome"]) == STOPPED
    assert stopped["values"]["val_accuracy"] == 0.9
    assert failed["kind"] == "failure" and Failure.from_json(failed["outcome"]) == FAILURE
    assert failed["values"] == {}
    assert front["ids"] == [architecture(1).id] and front["step"] == 1
    assert front["metrics"] == {"hypervolume": 0.5}
    assert results["ranks"] == {architecture(1).id: 0}
    assert results["files"] == [str(tmp_path / "front.html"), str(tmp_path / "front.png")]
    assert end["status"] == "FINISHED"
    times = [line["time_ms"] for line in lines(tmp_path)]
    assert times == sorted(times) and abs(times[0] / 1000 - time.time()) < 60


def test_a_resumed_search_doubles_nothing(tmp_path: Path) -> None:
    for _ in range(3):
        tracker = begun(tmp_path)
        assert tracker.has(evaluation(1)) == (kinds(tmp_path).count("begin") > 1)
        for outcome in (evaluation(1), FAILURE):
            tracker.outcome(outcome)
        tracker.front(FRONT)
        tracker.results(Results({}, {}))
    assert kinds(tmp_path) == [
        "begin",
        "evaluation",
        "failure",
        "front",
        "results",
        "begin",
        "begin",
    ]
    tracker.front(FrontNow(FRONT.ids, FRONT.metrics, 2))
    assert kinds(tmp_path)[-1] == "front"


def test_a_result_after_a_failure_is_a_record_of_its_own(tmp_path: Path) -> None:
    tracker = begun(tmp_path)
    tracker.outcome(FAILURE)
    assert tracker.has(FAILURE)
    assert not tracker.has(evaluation(3)) and evaluation(3).name == FAILURE.name
    tracker.outcome(evaluation(3))
    assert kinds(tmp_path) == ["begin", "failure", "evaluation"]


def test_a_line_torn_by_a_kill_is_written_again(tmp_path: Path) -> None:
    tracker = begun(tmp_path)
    tracker.outcome(evaluation(1))
    tracker.outcome(evaluation(2))
    file = tmp_path / "records.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    again = begun(tmp_path)
    assert again.has(evaluation(1)) and not again.has(evaluation(2))
    again.outcome(evaluation(2))
    assert kinds(tmp_path) == ["begin", "evaluation", "begin", "evaluation"]


def test_a_folder_that_cannot_be_written_ends_the_search_at_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").mkdir()
    with pytest.raises(StorageError, match=r"records\.jsonl"):
        begun(tmp_path)


ENDLESS = """
import sys
from pathlib import Path
from nas_theseus.services.trackers.json_lines import JsonLinesTracker
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import Cost, Evaluation
from nas_theseus.values.tracking import TrackerContext

def evaluation(width):
    architecture = Architecture((BlockChoice(Span(0, 3), "depthwise", (("expand", width),)),))
    notes = ("x" * 5000,)
    cost = Cost({"macs": width, "params": 1})
    return Evaluation(architecture, "full", 3, {"q": 0.8}, cost, 1, 2.5, (), notes)

folder = Path(sys.argv[1])
tracker = JsonLinesTracker(TrackerContext("one", "me", folder, folder, folder))
tracker.begin({})
print("begun", flush=True)
for width in range(1, 400):
    if not tracker.has(evaluation(width)):
        tracker.outcome(evaluation(width))
tracker.end("FINISHED")
print("ended", flush=True)
"""


def run(program: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    for delay_s in (0.001, 0.005, 0.02):
        with run(ENDLESS, str(tmp_path)) as writing:
            assert writing.stdout is not None and writing.stdout.readline() == "begun\n"
            time.sleep(delay_s)
            writing.send_signal(signal.SIGKILL)
    with run(ENDLESS, str(tmp_path)) as writing:
        said, _ = writing.communicate(timeout=120)
    assert said == "begun\nended\n"
    found = [line["name"] for line in lines(tmp_path) if line["kind"] == "evaluation"]
    assert len(found) == len(set(found)) == 399
    assert kinds(tmp_path)[-1] == "end"


FULL_DISK = """
import resource, sys
from pathlib import Path
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.trackers import make_trackers
from nas_theseus.values.outcomes import Evaluation, Failure
from nas_theseus.values.tracking import TrackerContext
from nas_theseus.values.architecture import Architecture, BlockChoice, Span

def failure(width):
    architecture = Architecture((BlockChoice(Span(0, 3), "depthwise", (("expand", width),)),))
    return Failure(architecture, "full", 3, "align", "loss is nan")

folder = Path(sys.argv[1])
storage = SearchFolder(folder, "one")
context = TrackerContext("one", "me", folder, folder, folder)
trackers = make_trackers(["json-lines"], [], context, storage.read_outcome, print)
trackers.begin({})
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (800, hard))
for width in range(1, 9):
    trackers.outcome(failure(width))
if sys.argv[2] == "freed":
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
print("undelivered", trackers.end("FINISHED"))
"""


@pytest.mark.parametrize("then", ["freed", "full"])
def test_a_search_outlives_a_full_disk(tmp_path: Path, then: str) -> None:
    with run(FULL_DISK, str(tmp_path), then) as running:
        said, _ = running.communicate(timeout=120)
    assert running.returncode == 0
    first, last = said.splitlines()
    assert first.startswith("tracker json-lines failed") and "File too large" in first
    failures = kinds(tmp_path).count("failure")
    if then == "freed":
        assert last == "undelivered 0"
        assert (failures, kinds(tmp_path)[-1]) == (8, "end")
        assert len({line["name"] for line in lines(tmp_path) if "name" in line}) == 8
    else:
        # The end's line is short: it may fit where no failure does.
        missing = 8 - failures + ("end" not in kinds(tmp_path))
        assert last == f"undelivered {missing}" and 0 < failures < 8


def test_what_a_full_disk_refused_is_sent_when_the_search_resumes(tmp_path: Path) -> None:
    outcomes: dict[str, Outcome] = {evaluation(width).name: evaluation(width) for width in (1, 2)}

    def launch() -> Trackers:
        trackers = make_trackers(["json-lines"], [], context(tmp_path), outcomes.get, print)
        trackers.begin({})
        return trackers

    first = launch()
    first.outcome(evaluation(1))
    (tmp_path / "records.jsonl").rename(tmp_path / "away")
    (tmp_path / "records.jsonl").mkdir()
    first.outcome(evaluation(2))
    assert first.end("KILLED") == 2
    (tmp_path / "records.jsonl").rmdir()
    (tmp_path / "away").rename(tmp_path / "records.jsonl")
    launch().resume(outcomes.values())
    assert kinds(tmp_path) == ["begin", "evaluation", "begin", "evaluation"]
