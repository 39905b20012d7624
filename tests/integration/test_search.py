"""Whole searches on real digits: real Ray, real Optuna storage, real MLflow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import torch

import nas_theseus
from nas_theseus.cli.app import main
from nas_theseus.errors import StorageError
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.space.load import load_space
from tests.integration.commands import SPACE, Desk, blocks_of, results, summary

# Several whole searches one after the other, on what may be a busy machine.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """One folder with one finished search `small` of 6 trials, two at a time."""
    made = Desk(tmp_path_factory.mktemp("desk"))
    made.output = made.search("--trials", "6", "--parallel", "2")  # type: ignore[attr-defined]
    return made


def test_the_front_is_printed_and_said_where_to_look(desk: Desk) -> None:
    output = desk.output  # type: ignore[attr-defined]
    for epoch in range(1, 5):
        assert f"guide: epoch {epoch} of 4, loss " in output
    assert "6 of 6 done" in output
    assert "6 trials to run, 2 at a time: about" in output
    assert "nas-theseus front small" in output
    assert len(desk.evaluations("small")) == 6
    for chatter in ("Traceback", "Warning", "ray.io", "INFO"):
        assert chatter not in output


@pytest.mark.slow
def test_a_second_search_with_the_same_guide_converts_no_block_twice(desk: Desk) -> None:
    first = summary(desk, "small")
    made = blocks_of(desk, "small")
    assert first["blocks_converted"] == len(made) > 0
    assert (first["blocks_reused"], first["blocks_failed"]) == (0, 0)
    output = desk.search("--name", "second", "--trials", "6", "--parallel", "2")
    second = summary(desk, "second")
    # It knows all block errors from its start, so that it may propose what the first did not.
    again = {
        outcome.block
        for outcome in SearchFolder(desk.folder / "theseus", "second").block_outcomes()
    }
    assert second["blocks_converted"] == len(again) and not again & made
    assert second["blocks_reused"] > 0
    assert f"blocks: {len(again)} converted" in output
    parallel, alone = results(desk.evaluations("small")), results(desk.evaluations("second"))
    shared = parallel.keys() & alone.keys()
    assert {n: parallel[n] for n in shared} == {n: alone[n] for n in shared}


@pytest.mark.slow
def test_a_search_without_the_library_has_results_of_its_own(desk: Desk) -> None:
    output = desk.search("--name", "without", "--trials", "2", "--no-library")
    assert "no library used" in output and "blocks_converted" not in summary(desk, "without")
    ways = {e.recipe for n in ("small", "without") for e in desk.evaluations(n).values()}
    assert len(ways) == 2
    desk.search("--name", "without", "--trials", "3")  # goes on as it began
    assert len(desk.evaluations("without")) == 3
    refused = desk.run("search", "small.py", "--no-library", "--trials", "7")
    assert refused.returncode == 2 and "with the library of converted blocks" in refused.stderr
    nowhere = desk.run("search", "small.py", "--name", "x", "--library", "nosuch://here")
    assert nowhere.returncode == 2 and "cannot open nosuch://here" in nowhere.stderr
    both = desk.run("search", "small.py", "--name", "x", "--library", "here", "--no-library")
    assert both.returncode == 2 and "give one of them" in both.stderr


def test_front_as_json_with_conditions(desk: Desk) -> None:
    rows = json.loads(desk.run("front", "small", "--json").stdout)
    assert [row["architecture"] for row in rows] == [name for name, _ in desk.front("small")]
    assert {"architecture", "pairing", "blocks", "val_accuracy", "test_accuracy", "macs",
            "params", "run_id"} <= set(rows[0])  # fmt: skip
    assert all(row["run_id"] and 0 <= row["test_accuracy"] <= 1 for row in rows)
    limit = rows[0]["macs"]
    some = json.loads(desk.run("front", "small", "--json", "--where", f"macs <= {limit}").stdout)
    assert some == rows[:1]
    wrong = desk.run("front", "small", "--where", "mac < 3")
    assert wrong.returncode == 2 and "unknown name 'mac'" in wrong.stderr


def test_mlflow_holds_the_search_as_documented(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(f"sqlite:///{desk.folder / 'mlflow.db'}")
    try:
        rows = json.loads(desk.run("front", "small", "--json").stdout)
        limit = max(row["macs"] for row in rows)
        found = mlflow.search_runs(
            experiment_names=["nas-theseus"],
            filter_string="tags.\"theseus.search\" = 'small' and tags.\"theseus.front\" = 'true' "
            f"and metrics.macs < {limit}",
            order_by=["metrics.macs"],
        )
        assert list(found["tags.theseus.architecture"]) == [
            row["architecture"] for row in rows if row["macs"] < limit
        ]
        runs = mlflow.search_runs(
            experiment_names=["nas-theseus"],
            filter_string="tags.\"theseus.search\" = 'small'",
            output_format="list",
        )
        children = [r for r in runs if r.data.tags["theseus.kind"] == "architecture"]
        (parent,) = [r for r in runs if r.data.tags["theseus.kind"] == "search"]
        assert {r.info.status for r in runs} == {"FINISHED"}
        assert len(children) == 6
        assert all(r.data.tags["mlflow.parentRunId"] == parent.info.run_id for r in children)
        assert all("theseus.rank" in r.data.tags for r in children)
        ranks = {r.data.tags["theseus.architecture"]: r.data.tags["theseus.rank"] for r in children}
        assert all(ranks[row["architecture"]] == "0" for row in rows)
        client = mlflow.MlflowClient()
        converted = parent.data.metrics["blocks_converted"]
        assert converted == summary(desk, "small")["blocks_converted"]
        steps = [m.step for m in client.get_metric_history(parent.info.run_id, "trials_done")]
        assert steps == sorted(set(steps)) and steps[-1] == 6
        names = {f.path for f in client.list_artifacts(parent.info.run_id)}
        assert {"report.html", "front.html", "front.png", "front.json"} <= names
        best = next(r for r in children if r.info.run_id == rows[-1]["run_id"])
        stored = {f.path for f in client.list_artifacts(best.info.run_id, "network")}
        assert "network/weights.safetensors" in stored
        for row in rows:
            member = client.get_run(row["run_id"])
            aligned = any(name.startswith("similarity/") for name in member.data.metrics)
            drawn = {f.path for f in client.list_artifacts(row["run_id"])} - {"network"}
            assert drawn == ({"chain.png", "similarity.png"} if aligned else set())
        trained = next(r for r in children if "similarity/0" in r.data.metrics)
        curve = client.get_metric_history(trained.info.run_id, "val_accuracy")
        assert [m.step for m in curve] == [0, 1]
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


def test_the_winner_is_rebuilt_only_on_consent(desk: Desk) -> None:
    name, values = desk.front("small")[-1]
    folder = desk.folder / "theseus" / "searches" / "small" / "front" / name
    with pytest.raises(StorageError, match="trust_code=True"):
        nas_theseus.load(folder)
    network = nas_theseus.load(folder, trust_code=True)
    task = load_space(folder / "space.py").task
    correct = total = 0
    with torch.no_grad():
        for batch in task.batches("validation", 64):
            correct += int((network(batch.inputs).argmax(1) == batch.targets).sum())
            total += len(batch.targets)
    assert correct / total == pytest.approx(values["val_accuracy"], abs=1e-6)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_search_and_reused_actors_change_nothing(desk: Desk) -> None:
    """Continued in fresh processes, or two at a time in reused ones: bit-equal results."""
    same = ("--sampler", "random")  # it proposes the same in whichever order trials end
    desk.search("--name", "again", "--trials", "4", "--parallel", "2", *same)
    desk.search("--name", "third", "--trials", "2", "--parallel", "1", *same)
    before = desk.evaluations("third")
    assert "0 trials to run" in desk.search("--name", "third", "--trials", "2")
    desk.search("--name", "third", "--trials", "4", "--parallel", "1")
    after = desk.evaluations("third")
    # Equal with their seconds: finished trials were not run again.
    assert len(after) == 4 and before.items() <= after.items()
    assert results(desk.evaluations("again")) == results(after)
    assert desk.front("again") == desk.front("third")


def test_a_damaged_guide_is_told_before_any_trial(desk: Desk) -> None:
    (desk.folder / "damaged").mkdir()
    for path in (desk.folder / "theseus" / "guides").iterdir():
        target = desk.folder / "damaged" / "guides" / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes()[:80])
    done = desk.run("search", "small.py", "--storage", "damaged", "--trials", "1")
    assert done.returncode == 2
    assert "is damaged" in done.stderr and "Traceback" not in done.stderr


def test_an_mlflow_server_that_is_not_there_is_told_before_training(desk: Desk) -> None:
    done = subprocess.run(
        desk.command("search", "small.py", "--name", "nowhere"), cwd=desk.folder,
        env=desk.environment() | {"MLFLOW_TRACKING_URI": "http://me:secret@127.0.0.1:9"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "MLflow at http://127.0.0.1:9 cannot be used" in done.stderr
    assert "secret" not in done.stderr + done.stdout
    assert not list((desk.folder / "theseus" / "searches" / "nowhere" / "weights").iterdir())


def test_a_changed_space_under_the_same_name_is_refused_with_the_difference(desk: Desk) -> None:
    (desk.folder / "other.py").write_text(SPACE.replace("max_span=2", "max_span=1"))
    done = desk.run("search", "other.py", "--name", "small", "--trials", "7")
    assert done.returncode == 2
    assert "-        max_span=2," in done.stderr and "+        max_span=1," in done.stderr
    seed = desk.run("search", "small.py", "--trials", "7", "--seed", "5")
    assert seed.returncode == 2 and "began with --seed 0, not with --seed 5" in seed.stderr


def test_convert_one_architecture_by_id_shows_similarity(desk: Desk) -> None:
    name = next(
        name
        for name, evaluation in desk.evaluations("small").items()
        if {choice.block for choice in evaluation.architecture.choices} & {"basic", "depthwise"}
    )
    done = desk.run("convert", "small.py", "--architecture", name, "--schedule", "sequential")
    assert done.returncode == 0, done.stderr
    assert "similarity per block after each stage" in done.stdout
    assert "val_accuracy: " in done.stdout
    assert nas_theseus.load(desk.folder / "converted", trust_code=True) is not None


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (('["0", "1", "2"]', '["0", "9"]'), ["cannot cut after '9'", "available: 0,"]),
        (
            ('keep=["head"],', 'keep=["tail"], constraints=["macs <= 10", "mac <= 3"],'),
            ["no part is named 'tail'", "unknown 'mac'"],
        ),
        (
            ('keep=["head"],', 'keep=["head"], constraints=["macs <= 10"],'),
            ["no architecture meets the constraint 'macs <= 10': the cheapest has macs ="],
        ),
        (
            ("blocks=[Keep(), ", "blocks=["),
            ["keep: needs Keep()", "none can replace part 'head'"],
        ),
        (("Recipe(epochs=1,", "Recipe(epochs=-1,"), ["epochs", "got -1"]),
    ],
)
def test_bad_spaces_are_told_before_any_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    messages: list[str],
) -> None:
    (tmp_path / "small.py").write_text(SPACE.replace(*change))
    monkeypatch.setattr(sys, "argv", ["nas-theseus", "check", str(tmp_path / "small.py")])
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    for message in messages:
        assert message in errors
    assert "Traceback" not in errors


def test_bad_arguments_and_files(desk: Desk) -> None:
    missing = desk.run("search", "nowhere.py")
    assert missing.returncode == 2 and "No such file" in missing.stderr
    sampler = desk.run("search", "small.py", "--name", "x", "--sampler", "grid")
    assert sampler.returncode == 2
    assert "unknown sampler 'grid'" in sampler.stderr and "tpe" in sampler.stderr
    none = desk.run("search", "small.py", "--name", "x", "--trials", "0")
    assert none.returncode == 2 and "trials" in none.stderr
    front = desk.run("front", "nothing")
    assert front.returncode == 2 and "no search 'nothing'" in front.stderr
    assert "Traceback" in desk.run("--debug", "front", "nothing").stderr
