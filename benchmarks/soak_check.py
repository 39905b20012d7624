"""Whether a search of the soak kept its promises: reads files, study and MLflow by itself.

Nothing here reads through nas_theseus: results and library are read as JSON and bytes, the study
through Optuna, MLflow through its client.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
import mlflow
import optuna
from mlflow.entities import Run
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

# The best of several results of one architecture comes first.
KINDS = {".json": "evaluation", ".stopped.json": "stopped", ".failed.json": "failure"}
_STATUS = {"evaluation": "FINISHED", "stopped": "KILLED", "failure": "FAILED"}
JOURNAL = "study.journal"
# What differs between two runs of the same trial.
_SECONDS = "seconds"
Values: TypeAlias = dict[str, float]


@dataclass(frozen=True)
class Result:
    """What a file of `evaluations/` says."""

    kind: str
    architecture: str
    name: str
    values: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Undisturbed:
    """What came of the same search without faults, one trial at a time.

    Attributes:
        results: kind and values by architecture.
        weights: SHA-256 of each architecture's weights.
        front: ids.
        seconds: wall time of the search.
    """

    results: Mapping[str, tuple[str, Values]]
    weights: Mapping[str, str]
    front: Sequence[str]
    seconds: float


@dataclass(frozen=True)
class Places:
    """Where the records of one search are.

    Attributes:
        search: its folder.
        library: a folder or fsspec address; None without a library.
        library_options: of fsspec.
        study: URL of a database; None for the journal in the search's folder.
        tracker: MLflow's address; None for JSON lines.
    """

    search: Path
    library: str | None = None
    library_options: Mapping[str, Any] = field(default_factory=dict)
    study: str | None = None
    tracker: str | None = None


@dataclass
class Kept:
    """What was finished at one of the faults, and must stay.

    Attributes:
        results: content of the files in `evaluations/` by name.
        blocks: names and sizes of the library's files.
        excused: names of files that a fault itself damaged; what they held must be there again.
    """

    results: dict[str, bytes] = field(default_factory=dict)
    blocks: dict[str, bytes] = field(default_factory=dict)
    excused: set[str] = field(default_factory=set)

    def take(self, places: Places) -> None:
        """Add what is finished now."""
        for path in (places.search / "evaluations").glob("*.json"):
            self.results.setdefault(path.name, path.read_bytes())
        if places.library is not None and "://" not in places.library:
            for path in Path(places.library).glob("blocks-*/*.json"):
                self.blocks.setdefault(path.name, path.read_bytes())


@dataclass
class Found:
    """What the check found; all zero if every promise was kept."""

    lost: int = 0
    doubled: int = 0
    left_running: int = 0
    front_differs: int = 0
    results_differ: int = 0
    library_errors: int = 0
    study_differs: int = 0
    tracker_differs: int = 0
    messages: list[str] = field(default_factory=list)

    def add(self, name: str, what: Iterable[object], why: str) -> None:
        """Count everything in `what`."""
        found = list(what)
        if found:
            setattr(self, name, getattr(self, name) + len(found))
            self.messages.append(f"{name}: {why}: {', '.join(map(str, found[:3]))}")

    @property
    def total(self) -> int:
        return sum(value for value in vars(self).values() if isinstance(value, int))


def read_results(search: Path) -> dict[str, list[Result]]:
    """All results of a search by architecture."""
    found: dict[str, list[Result]] = {}
    for path in sorted((search / "evaluations").glob("*.json")):
        name, _, suffix = path.name.partition(".")
        kind = KINDS[f".{suffix}"]
        data = json.loads(path.read_text())
        values = {**data.get("metrics", {}), **data.get("cost", {}), **data.get("predicted", {})}
        result = Result(kind, name.partition("-")[0], name, values, data.get("seconds", 0.0))
        found.setdefault(result.architecture, []).append(result)
    for results in found.values():
        results.sort(key=lambda result: [*KINDS.values()].index(result.kind))
    return found


def hashes_of_weights(search: Path) -> dict[str, str]:
    """SHA-256 of each architecture's weights."""
    return {
        path.name.partition("-")[0]: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (search / "weights").glob("*.safetensors")
    }


def front_of(search: Path) -> list[str]:
    """The front by the definition, compared pair by pair; sorted ids."""
    settings = json.loads((search / "settings.json").read_text())
    points = {}
    for architecture, results in read_results(search).items():
        if results[0].kind == "evaluation" and _allowed(results[0], settings["constraints"]):
            values = results[0].values
            points[architecture] = [
                -values[goal["name"]] if goal["direction"] == "maximize" else values[goal["name"]]
                for goal in settings["objectives"]
            ]

    def beats(one: list[float], other: list[float]) -> bool:
        pairs = [*zip(one, other, strict=True)]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    return sorted(
        name for name, point in points.items() if not any(beats(p, point) for p in points.values())
    )


def _allowed(result: Result, limits: Sequence[Mapping[str, Any]]) -> bool:
    for limit in limits:
        value, most = result.values[limit["name"]], limit["limit"]
        # What chance reaches is not enough, up to rounding.
        slack = 1e-6 * max(abs(most), 1e-2) if limit["chance"] else 0.0
        over = value - most if limit["operator"] == "<=" else most - value
        if over + slack > 0:
            return False
    return True


def check(
    places: Places, kept: Kept, expected: Undisturbed | None, *, may_give_up: bool = False
) -> Found:
    """Compare everything with everything.

    Args:
        expected: None where the order of results may differ from that of an undisturbed search.
        may_give_up: whether workers died so often that a trial may count as failed.
    """
    found = Found()
    results = read_results(places.search)
    study = _study(places)
    given_up = _given_up(study)
    if not may_give_up:
        found.add("lost", given_up, "trials counted as failed whose worker did not die so often")
    _check_kept(places, kept, results, found)
    _check_expected(places, kept, results, expected, given_up, found)
    _check_library(places, kept, found)
    _check_study(study, results, kept, found)
    if places.tracker is None:
        _check_lines(places, results, given_up, found)
    else:
        _check_runs(places, results, kept, given_up, found)
    return found


def _study(places: Places) -> optuna.Study:
    storage: BaseStorage = (
        JournalStorage(JournalFileBackend(str(places.search / JOURNAL)))
        if places.study is None
        else RDBStorage(places.study)
    )
    return optuna.load_study(study_name=places.search.name, storage=storage)


def _given_up(study: optuna.Study) -> set[str]:
    """Architectures of which a trial failed as its worker died too often, which is not saved."""
    return {
        trial.user_attrs["theseus:architecture"]
        for trial in study.get_trials(deepcopy=False, states=[TrialState.FAIL])
        if "its worker died" in trial.user_attrs.get("theseus:reason", "")
    }


def _check_kept(
    places: Places, kept: Kept, results: Mapping[str, list[Result]], found: Found
) -> None:
    now = {path.name: path.read_bytes() for path in (places.search / "evaluations").glob("*.json")}
    names = {result.name for several in results.values() for result in several}
    # Of a file that the fault damaged, the trial has to have run again.
    changed = [
        name
        for name, content in kept.results.items()
        if (
            name.partition(".")[0] not in names
            if name in kept.excused
            else now.get(name) != content
        )
    ]
    found.add("lost", changed, "results that had been saved are gone or changed")
    # A failure of an earlier attempt may stand beside the result.
    complete = {n: [r for r in rs if r.kind != "failure"] for n, rs in results.items()}
    twice = [name for name, several in complete.items() if len(several) > 1]
    found.add("doubled", twice, "architectures with two results")
    found.add(
        "lost",
        (r.name for rs in results.values() for r in rs[:1] if r.kind == "failure"),
        "trials ended as failures",
    )


def _check_expected(
    places: Places,
    kept: Kept,
    results: Mapping[str, list[Result]],
    expected: Undisturbed | None,
    given_up: set[str],
    found: Found,
) -> None:
    front = front_of(places.search)
    written = json.loads((places.search / "front" / "front.json").read_text())["front"]
    if sorted(row["architecture"] for row in written) != front:
        found.add("front_differs", ["front.json"], "it is not the front of the saved results")
    weights = hashes_of_weights(places.search)
    lacking = [n for n, rs in results.items() if rs[0].kind == "evaluation" and n not in weights]
    found.add("lost", lacking, "results without weights")
    if expected is None:
        return
    now = {name: (rs[0].kind, dict(rs[0].values)) for name, rs in results.items()}
    compared = now.keys() | expected.results.keys()
    if given_up:  # others were proposed instead
        compared = now.keys() & expected.results.keys()
    elif front != sorted(expected.front):
        found.add("front_differs", ["front"], "it is not that of the undisturbed search")
    differ = [name for name in compared if now.get(name) != expected.results.get(name)]
    found.add("results_differ", sorted(differ), "results are not those of the undisturbed search")
    # Damaged weights that nothing reads are not noticed; those of the front are.
    spared = {name.partition("-")[0] for name in kept.excused} - {*front}
    both = (weights.keys() & expected.weights.keys()) - spared
    other = [name for name in both if weights[name] != expected.weights[name]]
    found.add("results_differ", sorted(other), "weights are not those of the undisturbed search")


def _check_library(places: Places, kept: Kept, found: Found) -> None:
    if places.library is None:
        return
    files, root = fsspec.url_to_fs(
        places.library, use_listings_cache=False, **places.library_options
    )
    names = {path.rsplit("/", 1)[1]: path for path in files.find(root) if "/blocks-" in path}
    wrong = []
    for name, path in names.items():
        if name.endswith(".json"):
            record = json.loads(files.cat_file(path))
            weights = f"{name.removesuffix('.json')}.{record['sha256'][:16]}.safetensors"
            content = files.cat_file(names[weights]) if weights in names else b""
            # Damage to weights that nothing reads is not noticed; `library verify` finds it.
            if (
                weights not in kept.excused
                and hashlib.sha256(content).hexdigest() != record["sha256"]
            ):
                wrong.append(name)
    found.add("library_errors", wrong, "entries whose weights are not those of their record")
    gone = [n for n, c in kept.blocks.items() if n not in kept.excused and n not in names]
    found.add("library_errors", gone, "entries that had been saved are gone")


def _check_study(
    study: optuna.Study, results: Mapping[str, list[Result]], kept: Kept, found: Found
) -> None:
    trials = study.get_trials(deepcopy=False)
    running = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
    found.add("left_running", running, "trials of the study are RUNNING")
    told: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        marks = trial.user_attrs
        new = "theseus:repeated" not in marks and not marks.get("theseus:reason", "").startswith(
            "refused"
        )
        if trial.state == TrialState.COMPLETE and new:
            told.setdefault(marks["theseus:architecture"], []).append(trial)
    twice = [name for name, several in told.items() if len(several) > 1]
    found.add("doubled", twice, "architectures that the study was told twice")
    complete = {n: rs[0] for n, rs in results.items() if rs[0].kind != "failure"}
    found.add("study_differs", told.keys() - complete.keys(), "in the study alone")
    # A journal that was cut is given the results again when its proposals come to them, which those
    # of a finished search do not; tests/unit/services/optuna/test_study.py checks that they are.
    if JOURNAL not in kept.excused:
        found.add("study_differs", complete.keys() - told.keys(), "in the files alone")
    names = study.metric_names
    assert names is not None
    differ = [
        name
        for name in told.keys() & complete.keys()
        for trial in told[name]
        if trial.values != [complete[name].values[goal] for goal in names]
    ]
    found.add("study_differs", differ, "the study has other values than the files")


def _check_lines(
    places: Places, results: Mapping[str, list[Result]], given_up: set[str], found: Found
) -> None:
    lines = []
    for line in (places.search / "records.jsonl").read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue  # damaged by a fault; what it said must stand in another line
    outcomes = [line for line in lines if line.get("kind") in _STATUS]
    counts = Counter((line["kind"], line["name"]) for line in outcomes)
    found.add("doubled", [k for k, n in counts.items() if n > 1], "outcomes recorded twice")
    recorded = {
        line["architecture"]: line["values"] for line in outcomes if line["kind"] != "failure"
    }
    saved = {name: rs[0].values for name, rs in results.items() if rs[0].kind != "failure"}
    differ = [n for n in recorded.keys() | saved.keys() if recorded.get(n) != saved.get(n)]
    found.add("tracker_differs", sorted(differ), "records.jsonl has other results than the files")
    failed = {line["architecture"] for line in outcomes if line["kind"] == "failure"}
    alone = failed - given_up - results.keys()
    found.add("tracker_differs", alone, "records.jsonl alone has the failure")
    unrecorded = {n for n, rs in results.items() if rs[0].kind == "failure"} - failed
    found.add("tracker_differs", unrecorded, "records.jsonl lacks the failure")
    fronts = [line["ids"] for line in lines if line.get("kind") == "front"]
    if not fronts or sorted(fronts[-1]) != front_of(places.search):
        found.add("tracker_differs", ["front"], "the last front in records.jsonl is another")


def _check_runs(
    places: Places,
    results: Mapping[str, list[Result]],
    kept: Kept,
    given_up: set[str],
    found: Found,
) -> None:
    client = mlflow.MlflowClient(places.tracker)
    experiment = client.get_experiment_by_name("nas-theseus")
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id]))
    running = [run.info.run_name for run in runs if run.info.status == "RUNNING"]
    found.add("left_running", running, "runs of MLflow are RUNNING")
    by_name: dict[str | None, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.data.tags.get("theseus.architecture"), []).append(run)
    twice = [name for name, several in by_name.items() if len(several) > 1]
    found.add("doubled", twice, "architectures with two runs of MLflow")
    searches = by_name.pop(None, [])
    if [run.info.status for run in searches] != ["FINISHED"]:
        found.add("tracker_differs", ["search"], "the search has no finished run of its own")
    elif not searches[0].data.params:
        found.add("tracker_differs", ["search"], "the search's run lacks its settings")
    failed = {name for name, several in by_name.items() if several[0].info.status == "FAILED"}
    alone = (by_name.keys() - (failed & given_up)) ^ results.keys()
    found.add("tracker_differs", alone, "in MLflow or the files alone")
    front = {n for n, rs in by_name.items() if rs[0].data.tags.get("theseus.front") == "true"}
    found.add("tracker_differs", front ^ {*front_of(places.search)}, "other fronts are marked")
    for name in by_name.keys() & results.keys():
        assert name is not None
        result, run = results[name][0], by_name[name][0]
        if not _says(run, result, exact=not kept.excused):
            found.add("tracker_differs", [name], "its run has other values than its file")
        if name in front:
            network = {file.path for file in client.list_artifacts(run.info.run_id, "network")}
            if not {"network/weights.safetensors"} <= network:
                found.add("tracker_differs", [name], f"its run lacks its network: {network}")
    # A damaged record is set aside; what it held has to be there all the same.
    records = {path.name for path in (places.search / "outbox").rglob("*.json")}
    waiting = records - kept.excused
    found.add("tracker_differs", waiting, "records that MLflow has not received")


def _says(run: Run, result: Result, *, exact: bool) -> bool:
    """Whether a run has the values of a file; after damage, not the seconds of a repeated trial."""
    predicted = {
        n.removeprefix("predicted_") for n in run.data.metrics if n.startswith("predicted_")
    }
    values = {name: value for name, value in result.values.items() if name not in predicted}
    if exact and result.kind != "failure":
        values[_SECONDS] = result.seconds
    metrics = run.data.metrics
    return run.info.status == _STATUS[result.kind] and all(
        metrics.get(name) == value for name, value in values.items()
    )
