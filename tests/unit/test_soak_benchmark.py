"""The soak's own check: a whole result passes, and each kind of damage is noticed."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from benchmarks.soak_check import Found, Kept, Places, Undisturbed, check, front_of, read_results
from benchmarks.soak_damage import Damage, damage, remedy
from benchmarks.soak_draw import KINDS, draw
from benchmarks.soak_report import BROKEN, figures, latest, table, told
from benchmarks.soak_services import Proxy
from nas_theseus.services.optuna.causes import damaged

GOALS = [
    {"name": "val_accuracy", "direction": "maximize"},
    {"name": "macs", "direction": "minimize"},
]
CHANCE = {"name": "val_accuracy", "operator": ">=", "limit": 0.1, "chance": True}
# "chance" would be on the front if it beat chance; "beaten" is beaten by the first.
EVALUATED = {"best": (0.9, 100), "small": (0.8, 50), "beaten": (0.8, 120), "chance": (0.1, 1)}
FRONT = ["best", "small"]


def evaluation(accuracy: float, macs: int) -> dict[str, Any]:
    return {"metrics": {"val_accuracy": accuracy}, "cost": {"macs": macs}, "seconds": 1.5}


class Whole:
    """A search that kept every promise, written by hand."""

    def __init__(self, root: Path) -> None:
        self.search, self.library = root / "searches" / "small", root / "library"
        for folder in ("evaluations", "weights", "front", "outbox"):
            (self.search / folder).mkdir(parents=True)
        settings = {"objectives": GOALS, "constraints": [CHANCE]}
        self.write("settings.json", settings)
        for name, values in EVALUATED.items():
            self.write(f"evaluations/{name}-r-0.json", evaluation(*values))
            (self.search / "weights" / f"{name}-r-0.safetensors").write_bytes(name.encode())
        stopped = {**evaluation(0.3, 70), "predicted": {"val_accuracy": 0.5}}
        self.write("evaluations/stopped-r-0.stopped.json", stopped)
        self.write("front/front.json", {"front": [{"architecture": name} for name in FRONT]})
        self.told = {**EVALUATED, "stopped": (0.5, 70)}
        self.tell({name: self.told[name] for name in self.told})
        self.records(self.told, FRONT)
        blocks = self.library / "blocks-1"
        blocks.mkdir(parents=True)
        digest = hashlib.sha256(b"weights").hexdigest()
        (blocks / "one.json").write_text(json.dumps({"sha256": digest}))
        (blocks / f"one.{digest[:16]}.safetensors").write_bytes(b"weights")

    def write(self, name: str, content: object) -> None:
        (self.search / name).write_text(json.dumps(content))

    def records(self, told: dict[str, tuple[float, int]], front: list[str]) -> None:
        lines: list[dict[str, Any]] = [
            {
                "kind": "stopped" if name == "stopped" else "evaluation",
                "name": f"{name}-r-0",
                "architecture": name,
                "values": {"val_accuracy": accuracy, "macs": macs},
            }
            for name, (accuracy, macs) in told.items()
        ]
        lines.append({"kind": "front", "ids": front})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (self.search / "records.jsonl").write_text(text)

    @property
    def study(self) -> optuna.Study:
        storage = JournalStorage(JournalFileBackend(str(self.search / "study.journal")))
        return optuna.create_study(
            study_name="small", storage=storage, directions=["maximize", "minimize"],
            load_if_exists=True,
        )  # fmt: skip

    def tell(self, told: dict[str, tuple[float, int]], **marks: object) -> None:
        study = self.study
        study.set_metric_names(["val_accuracy", "macs"])
        for name, values in told.items():
            marked = {"theseus:architecture": name, **marks}
            study.add_trial(create_trial(values=values, user_attrs=marked))

    @property
    def expected(self) -> Undisturbed:
        found = read_results(self.search)
        results = {name: (rs[0].kind, dict(rs[0].values)) for name, rs in found.items()}
        weights = {name: hashlib.sha256(name.encode()).hexdigest() for name in EVALUATED}
        return Undisturbed(results, weights, FRONT, 1.0)

    @property
    def places(self) -> Places:
        return Places(self.search, str(self.library))


@pytest.fixture
def whole(tmp_path: Path) -> Whole:
    return Whole(tmp_path)


def test_the_front_is_found_pair_by_pair(whole: Whole) -> None:
    assert front_of(whole.search) == FRONT
    # All of several equal ones are on it.
    whole.write("evaluations/twin-r-0.json", evaluation(*EVALUATED["best"]))
    assert front_of(whole.search) == ["best", "small", "twin"]


def test_a_whole_search_passes(whole: Whole) -> None:
    kept = Kept()
    kept.take(whole.places)
    whole.tell({"best": EVALUATED["best"]}, **{"theseus:repeated": True})
    whole.tell({"refused": (-1e12, 7)}, **{"theseus:reason": "refused: breaks macs"})
    found = check(whole.places, kept, whole.expected)
    assert found.messages == [] and found.total == 0
    assert len(kept.results) == 5 and len(kept.blocks) == 1


def remove_result(whole: Whole) -> None:
    (whole.search / "evaluations" / "small-r-0.json").unlink()


def run_again(whole: Whole) -> None:
    whole.write("evaluations/small-r-0.json", {**evaluation(*EVALUATED["small"]), "seconds": 9})


def change_result(whole: Whole) -> None:
    whole.write("evaluations/small-r-0.json", evaluation(0.81, 50))


def fail(whole: Whole) -> None:
    whole.write("evaluations/other-r-0.failed.json", {"message": "store gone"})


def stop_as_well(whole: Whole) -> None:
    whole.write("evaluations/small-r-0.stopped.json", evaluation(0.2, 50))


def remove_weights(whole: Whole) -> None:
    (whole.search / "weights" / "small-r-0.safetensors").unlink()


def change_weights(whole: Whole) -> None:
    (whole.search / "weights" / "small-r-0.safetensors").write_bytes(b"smalm")


def change_front(whole: Whole) -> None:
    whole.write("front/front.json", {"front": [{"architecture": "best"}]})


def change_block(whole: Whole) -> None:
    (path,) = whole.library.glob("*/*.safetensors")
    path.write_bytes(b"weighty")


def remove_block(whole: Whole) -> None:
    (whole.library / "blocks-1" / "one.json").unlink()


def leave_trial(whole: Whole) -> None:
    whole.study.ask()


def tell_twice(whole: Whole) -> None:
    whole.tell({"small": EVALUATED["small"]})


def tell_other(whole: Whole) -> None:
    (whole.search / "study.journal").unlink()
    whole.tell({**whole.told, "small": (0.79, 50)})


def tell_less(whole: Whole) -> None:
    (whole.search / "study.journal").unlink()
    whole.tell({name: values for name, values in whole.told.items() if name != "small"})


def record_less(whole: Whole) -> None:
    whole.records({name: values for name, values in whole.told.items() if name != "small"}, FRONT)


def record_twice(whole: Whole) -> None:
    path = whole.search / "records.jsonl"
    path.write_text(path.read_text().partition("\n")[0] + "\n" + path.read_text())


def record_other(whole: Whole) -> None:
    whole.records({**whole.told, "small": (0.79, 50)}, FRONT)


def record_other_front(whole: Whole) -> None:
    whole.records(whole.told, ["best"])


@pytest.mark.parametrize(
    "harm, noticed",
    [
        (remove_result, {"lost": 1, "front_differs": 2, "results_differ": 1}),
        (run_again, {"lost": 1}),
        (change_result, {"lost": 1, "results_differ": 1}),
        (fail, {"lost": 1, "results_differ": 1, "tracker_differs": 1}),
        (stop_as_well, {"doubled": 1}),
        (remove_weights, {"lost": 1}),
        (change_weights, {"results_differ": 1}),
        (change_front, {"front_differs": 1}),
        (change_block, {"library_errors": 1}),
        (remove_block, {"library_errors": 1}),
        (leave_trial, {"left_running": 1}),
        (tell_twice, {"doubled": 1}),
        (tell_other, {"study_differs": 1}),
        (tell_less, {"study_differs": 1}),
        (record_less, {"tracker_differs": 1}),
        (record_twice, {"doubled": 1}),
        (record_other, {"tracker_differs": 1}),
        (record_other_front, {"tracker_differs": 1}),
    ],
)
def test_each_harm_is_noticed(
    harm: Callable[[Whole], None], noticed: dict[str, int], whole: Whole
) -> None:
    kept = Kept()
    kept.take(whole.places)
    expected = whole.expected
    harm(whole)
    found = check(whole.places, kept, expected)
    for name, count in noticed.items():
        assert getattr(found, name) == count, found.messages
    assert found.total >= sum(noticed.values())
    # Without it nothing is found, so it is the harm that was noticed.
    own = {name for name in vars(Found()) if name != "messages" and getattr(found, name)}
    if harm is not remove_result and harm is not change_result:
        assert own == noticed.keys(), found.messages


def test_a_trial_that_was_given_up_excuses_what_came_instead_and_nothing_else(
    whole: Whole,
) -> None:
    expected = whole.expected
    remove_result(whole)
    (whole.search / "study.journal").unlink()
    told = {name: values for name, values in whole.told.items() if name != "small"}
    whole.tell(told)
    reason = {"theseus:reason": "failed: its worker died 3 times"}
    marks = {"theseus:architecture": "small", **reason}
    whole.study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=marks))
    whole.records(told, ["best"])
    whole.write("front/front.json", {"front": [{"architecture": "best"}]})
    assert check(whole.places, Kept(), expected, may_give_up=True).messages == []
    assert check(whole.places, Kept(), expected).lost == 1  # no worker died so often
    whole.write("evaluations/beaten-r-0.json", evaluation(0.81, 120))
    assert check(whole.places, Kept(), expected, may_give_up=True).results_differ == 1


def test_a_damaged_result_has_to_be_there_again(whole: Whole) -> None:
    kept = Kept()
    kept.take(whole.places)
    kept.excused.add("small-r-0.json")
    run_again(whole)
    assert check(whole.places, kept, whole.expected).lost == 0
    expected = whole.expected
    remove_result(whole)
    assert check(whole.places, kept, expected).lost == 1


def test_mlflow_is_compared_with_the_files(whole: Whole, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("nas-theseus", str(tmp_path / "artifacts"))
    places = replace(whole.places, tracker=uri)
    network = tmp_path / "weights.safetensors"
    network.touch()
    runs = {}
    for name, (accuracy, macs) in EVALUATED.items():
        tags = {"theseus.architecture": name, "theseus.front": str(name in FRONT).lower()}
        runs[name] = client.create_run(experiment, tags=tags).info.run_id
        for metric, value in {"val_accuracy": accuracy, "macs": macs, "seconds": 1.5}.items():
            client.log_metric(runs[name], metric, value)
        client.set_terminated(runs[name], "FINISHED")
        if name in FRONT:
            client.log_artifact(runs[name], str(network), "network")

    def found() -> Found:
        return check(places, Kept(), whole.expected)

    assert (found().tracker_differs, found().left_running) == (2, 0)  # no search, nothing stopped
    parent = client.create_run(experiment).info.run_id
    run = client.create_run(experiment, tags={"theseus.architecture": "stopped"}).info.run_id
    assert found().left_running == 2
    for metric, value in {"val_accuracy": 0.3, "predicted_val_accuracy": 0.5, "macs": 70}.items():
        client.log_metric(run, metric, value)
    client.log_metric(run, "seconds", 1.5)
    client.set_terminated(run, "KILLED")
    client.set_terminated(parent, "FINISHED")
    assert found().tracker_differs == 1  # without the search's settings
    client.log_param(parent, "trials", 4)
    assert found().messages == []

    client.log_metric(runs["small"], "macs", 51)
    assert found().tracker_differs == 1
    client.log_metric(runs["small"], "macs", 50)
    client.set_tag(runs["beaten"], "theseus.front", "true")
    assert found().tracker_differs == 2  # it is marked, and has no network
    client.set_tag(runs["beaten"], "theseus.front", "false")
    other = client.create_run(experiment, tags={"theseus.architecture": "small"}).info.run_id
    client.set_terminated(other, "FINISHED")
    assert found().doubled == 1
    client.delete_run(other)
    whole.write("outbox/000000000001-front.json", {})
    assert found().tracker_differs == 1


def test_a_cell_is_drawn_from_its_number_alone() -> None:
    assert draw(0, 7) == draw(0, 7) != draw(1, 7)
    cells = [draw(0, number) for number in range(4000)]
    assert {setup.kind for setup, _ in cells} == KINDS.keys()
    faults = {fault.name for _, found in cells for fault in found}
    assert faults >= {"kill driver", "kill worker", "kill node", "kill head", "kill tracker",
                      "kill tracker's database", "kill database", "kill store", "damage a file",
                      "fill disk", "jump", "reset store", "slow database", "stop driver",
                      "second driver"}  # fmt: skip
    for setup, found in cells:
        services = setup.services
        for fault in found:
            verb, _, what = fault.name.partition(" ")
            assert verb not in ("reset", "slow") or what in services
        assert setup.parallel == 1 or setup.kind in ("ray", "cluster")


def test_a_file_is_damaged_and_mended(tmp_path: Path) -> None:
    path = tmp_path / "searches" / "small" / "settings.json"
    path.parent.mkdir(parents=True)
    whole = b"x" * 100
    ways = set()
    for choice in (0.1, 0.2, 0.3, 0.4, 0.5):
        path.write_bytes(whole)
        done = damage(tmp_path, choice)
        assert done is not None and done.path == path and done.whole == whole != path.read_bytes()
        ways.add(done.way.partition(" ")[0])
        assert remedy("everything is bad: restore it from a backup", done) is None
        assert remedy(f"{path} is bad: restore it from a backup", done) == "restored from a backup"
        assert path.read_bytes() == whole
    assert ways == {"cut", "bit"}
    journal = tmp_path / "study.journal"
    journal.write_bytes(b"one\ntwo\nthree\n")
    said = " ".join(str(damaged(journal, 2, "its checksum does not match")).split())
    assert remedy(said, Damage(journal, b"", "cut")) == "kept the lines before"
    assert journal.read_bytes() == b"one\n"
    said = " ".join(str(damaged(journal, 1, "its checksum does not match")).split())
    assert remedy(said, Damage(journal, b"", "cut")) == "moved away"
    assert not journal.exists()
    journal.with_name("study.journal.damaged").unlink()
    gone = Damage(path, whole, "cut")
    assert remedy(f"{path} is damaged. Delete this file to make it again", gone) == "deleted"
    assert not path.exists() and damage(tmp_path, 0.1) is None


def row(cell: int, **other: Any) -> dict[str, Any]:
    zeros = dict.fromkeys(BROKEN.values(), 0)
    return {
        "seed": 0, "cell": cell, "kind": "forked", "space": "text", "sampler": "tpe",
        "library": "none", "study": "journal", "tracker": "lines", "kills": 3, "damaged": 1,
        "named": 0, "launches": 4, "finished": 9, "seconds": 1800.0, "error": "", "messages": [],
        "happened": {"kill driver": 3}, **zeros, **other,
    }  # fmt: skip


def test_the_last_row_of_a_cell_counts() -> None:
    rows = [row(0, lost=2), row(1), row(0), {"seed": 0, "cell": 2, "error": "no row"}]
    assert [one["cell"] for one in latest(rows)] == [0, 1, 2]
    found = figures(rows)
    assert (found["kills"], found["hours"], found["lost"], found["cells"]) == (6, 1.0, 0, 2)
    assert found["cells_with_errors"] == 1
    assert figures([row(0, front_differs=1, hangs=1)])["fronts_that_differ"] == 1
    lines = table(rows)
    assert "| without Ray | 2 | 1.00 | 8 | 6 | 18 | 0 | 0 | 0 | 0 | 0 |" in lines
    assert "| kill driver | 6 |" in lines
    assert "| without Ray | 1 | 0.50 | 4 | 3 | 9 | 0 | 0 | 0 | 1 | 2 |" in table(
        [row(0, front_differs=1, hangs=1, unclear_ends=1)]
    )
    assert "lost" in told(row(0, lost=1)) and "lost" not in told(row(0))


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[tuple[Proxy, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = Proxy(tmp_path, server.getsockname()[1])
        try:
            yield proxy, server
        finally:
            proxy.stop()


@pytest.mark.skipif("PYTEST_XDIST_WORKER" in os.environ, reason="a worker of xdist has threads")
def test_a_proxy_passes_on_and_resets(proxied: tuple[Proxy, socket.socket]) -> None:
    proxy, server = proxied

    def connected() -> socket.socket:
        for _ in range(200):
            try:
                return socket.create_connection(("127.0.0.1", proxy.port), 5)
            except ConnectionRefusedError:  # the proxy is starting
                time.sleep(0.02)
        raise AssertionError("the proxy does not start")

    client = connected()
    there, _ = server.accept()
    client.sendall(b"question")
    assert there.recv(100) == b"question"
    there.sendall(b"answer")
    assert client.recv(100) == b"answer"
    proxy.set("0.05")
    client.sendall(b"slow")
    assert there.recv(100) == b"slow"
    proxy.set("reset")
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    client.close()
    there.close()
