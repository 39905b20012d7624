"""PostgreSQL and MLflow's server are stopped and started again, a store's files are damaged."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from nas_theseus import Recipe
from nas_theseus.errors import LibraryError, ServiceError
from nas_theseus.library.block_key import BlockKey
from nas_theseus.library.record import Facts
from nas_theseus.library.store import BLOCKS, DAMAGED, Library
from nas_theseus.services.mlflow import MlflowTracker
from nas_theseus.services.optuna.storage import reach
from nas_theseus.services.optuna.study import Problem, Study, StudySettings, open_study
from nas_theseus.space.genome import Genome
from nas_theseus.space.load import load_space
from nas_theseus.values.architecture import Architecture, BlockChoice, Boundary, Span
from nas_theseus.values.outcomes import Cost, Evaluation, Outcome
from tests.faults.counts import Fault
from tests.faults.services import MlflowServer, Postgres, S3Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SPACE = load_space(Path(__file__).parents[2] / "search_spaces" / "digits.py")


class Bench:
    """A study whose trials end at once, over any storage."""

    def __init__(self, storage: str | Path) -> None:
        self.storage = storage
        self.results: dict[str, Outcome] = {}

    def study(self) -> Study:
        return open_study(
            StudySettings("one", self.storage, "nsga2", 0),
            Problem(Genome(SPACE), SPACE.goals, (), lambda _: Cost({"macs": 1, "params": 1})),
            lambda architecture: self.results.get(architecture.id),
        )

    def trial(self, study: Study) -> str:
        proposal = study.propose()
        assert proposal is not None
        number = int(proposal.architecture.id, 16)
        values = {"val_accuracy": number % 1009 / 1009}
        cost = Cost({"macs": number % 9973, "params": 1})
        done = Evaluation(proposal.architecture, "r", 0, values, cost, 0, 0.0)
        self.results[proposal.architecture.id] = done
        study.report(proposal, done)
        return proposal.architecture.id


def test_a_study_in_postgresql_goes_on_after_a_restart(
    postgres: Postgres, tmp_path: Path, fault: Fault
) -> None:
    whole = Bench(tmp_path / "study.journal")
    undisturbed_study = whole.study()
    undisturbed = [whole.trial(undisturbed_study) for _ in range(12)]

    bench = Bench(postgres.uri())
    study = bench.study()
    found = [bench.trial(study) for _ in range(4)]
    postgres.stop()
    fault.kills, fault.finished = 1, 4
    postgres.start()
    # The same driver goes on: its connection is found dead and made anew.
    found += [bench.trial(study) for _ in range(4)]
    postgres.stop(kill=True)
    fault.kills, fault.finished = 2, 12
    said = "refused.*does not answer.*the same command continues"
    with pytest.raises(ServiceError, match=said) as told:
        bench.trial(study)
    assert postgres.password not in str(told.value)
    postgres.start()
    # Another driver, as a search that stopped is started again.
    study = bench.study()
    fault.left_running = study.states["RUNNING"]
    found += [bench.trial(study) for _ in range(4)]
    fault.doubled = len(found) - len(set(found))
    fault.lost = len(set(undisturbed) - set(found))
    assert found == undisturbed
    assert study.states["RUNNING"] == 0


def test_a_refused_password_and_an_absent_database_are_told(postgres: Postgres) -> None:
    said = "password authentication failed.*refuses this user or password"
    with pytest.raises(ServiceError, match=said) as told:
        reach(postgres.uri("wr0ng"))
    assert "wr0ng" not in str(told.value)
    reach(postgres.uri())
    with pytest.raises(ServiceError, match='database "absent" does not exist.*create it there'):
        reach(postgres.uri(database="absent"))
    postgres.stop()
    with pytest.raises(ServiceError, match="127.0.0.1.*cannot be used") as told:
        reach(postgres.uri())
    assert "s3cr" not in str(told.value)


def test_a_database_that_mlflow_uses_is_told(
    mlflow_server: MlflowServer, postgres: Postgres
) -> None:
    assert mlflow_server.answers()
    with pytest.raises(ServiceError, match="another tool uses this.*its own database"):
        reach(postgres.uri())
    postgres.create("optuna")
    reach(postgres.uri(database="optuna"))


def evaluation(width: int) -> Evaluation:
    architecture = Architecture((BlockChoice(Span(0, 3), "depthwise", (("expand", width),)),))
    return Evaluation(
        architecture,
        "full",
        3,
        {"val_accuracy": 0.8},
        Cost({"macs": width, "params": width}),
        1,
        0.5,
    )


def runs(uri: str) -> list[Run]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("nas-theseus")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def check(fault: Fault, uri: str, expected: set[str]) -> None:
    found = runs(uri)
    names = Counter(run.data.tags.get("theseus.architecture") for run in found)
    searches = names.pop(None)
    fault.lost = len(expected - names.keys())
    fault.doubled = sum(count - 1 for count in names.values()) + searches - 1
    fault.left_running = sum(run.info.status == "RUNNING" for run in found)
    assert (fault.lost, fault.doubled, fault.left_running) == (0, 0, 0)
    assert names.keys() == expected


@pytest.fixture
def tracker(mlflow_server: MlflowServer, tmp_path: Path) -> Iterator[MlflowTracker]:
    made = MlflowTracker(
        "one", tmp_path / "outbox", tmp_path / "runs.json", tracking_uri=mlflow_server.uri
    )
    made.begin({"trials": 20})
    yield made
    made.end(timeout_s=1)


def test_records_wait_while_mlflow_s_server_is_down(
    tracker: MlflowTracker, mlflow_server: MlflowServer, fault: Fault
) -> None:
    expected = {evaluation(width).architecture.id for width in range(1, 13)}
    for width in range(1, 13):
        if width in (4, 8):
            mlflow_server.stop(kill=width == 8)
            fault.kills, fault.finished = fault.kills + 1, fault.finished + width - 1
        tracker.outcome(evaluation(width))
        if width in (6, 10):
            assert tracker.pending > 0
            mlflow_server.start()
    assert tracker.end(timeout_s=300) == 0
    check(fault, mlflow_server.uri, expected)


def test_records_wait_while_mlflow_s_database_is_down(
    tracker: MlflowTracker, mlflow_server: MlflowServer, postgres: Postgres, fault: Fault
) -> None:
    """The server is there and refuses: nothing is set aside, everything is delivered later."""
    expected = {evaluation(width).architecture.id for width in range(1, 9)}
    for width in range(1, 9):
        if width == 4:
            postgres.stop(kill=True)
            fault.kills, fault.finished = 1, 3
        tracker.outcome(evaluation(width))
    time.sleep(5)
    assert tracker.pending > 0
    postgres.start()
    assert tracker.end(timeout_s=300) == 0
    assert tracker.refused == 0
    check(fault, mlflow_server.uri, expected)


FACTS = Facts(similarity=0.9, residual=0.25, steps=3, macs=1000, seconds=0.5, device="cpu")
END = Boundary((4,))


def key(name: str) -> BlockKey:
    return BlockKey("g" * 16, "d" * 16, Span(0, 1), name, (), END, END, "c" * 16, Recipe())


def test_a_library_in_an_object_store_finds_damage_and_makes_it_again(
    store: S3Store, fault: Fault
) -> None:
    files = fsspec.filesystem("s3")
    files.mkdir("library")
    library = Library("s3://library/blocks")
    state = {"weight": torch.arange(1000.0)}
    names = ["flipped", "truncated", "sound", "no record"]
    for name in names:
        library.put(key(name), state, FACTS)

    def weights(name: str) -> str:
        (found,) = files.glob(f"library/blocks/{BLOCKS}/{key(name).id}.*.safetensors")
        return str(found)

    content = bytearray(files.cat_file(weights("flipped")))
    content[-5] ^= 1
    files.pipe_file(weights("flipped"), bytes(content))
    files.pipe_file(weights("truncated"), bytes(content[:100]))
    files.pipe_file(f"library/blocks/{BLOCKS}/{key('no record').id}.json", b"")
    fault.finished = len(names)
    other = Library("s3://library/blocks", create=False)
    assert [name for name in names if other.get(key(name)) is not None] == ["sound"]
    assert len(files.glob(f"library/blocks/{DAMAGED}/*.txt")) == 3
    for name in names:
        other.put(key(name), state, FACTS)
        entry = library.get(key(name))
        fault.lost += entry is None
        assert entry is not None and torch.equal(entry.state["weight"], state["weight"])
    store.stop()
    fault.kills = 1
    with pytest.raises(LibraryError) as told:
        library.get(key("sound"))
    assert "secret" not in str(told.value)
