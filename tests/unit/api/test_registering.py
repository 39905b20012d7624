"""The command `register`, with MLflow on SQLite: models, versions, aliases, and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner, Result

import nas_theseus
from nas_theseus.cli.app import make_app
from nas_theseus.errors import ServiceError, StorageError, TheseusError
from nas_theseus.export.member import read_member, write_member
from nas_theseus.services.mlflow import MlflowTracker
from nas_theseus.space.sources import read_sources
from tests.unit.api.found_search import BRANCHING, FAILED, STOPPED, TRACED, FoundSearch, evaluation


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: migrating takes seconds, copying none."""
    file = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(f"sqlite:///{file}").search_experiments(max_results=1)
    return file


@pytest.fixture
def search(
    tmp_path: Path, migrated: Path, toy_space_text: str, monkeypatch: pytest.MonkeyPatch
) -> FoundSearch:
    shutil.copy(migrated, tmp_path / "mlflow.db")
    # MLflow keeps artifacts of a SQLite store under the working folder.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return FoundSearch(tmp_path, toy_space_text)


def register(*arguments: str) -> Result:
    return CliRunner().invoke(
        make_app(),
        ["register", *arguments, "--storage", "storage", "--trust-code"],
        env={"COLUMNS": "200"},
    )


def refusal(*arguments: str) -> str:
    result = register(*arguments)
    assert isinstance(result.exception, TheseusError), result.output
    return str(result.exception)


def experiment() -> str:
    found = MlflowClient().get_experiment_by_name("nas-theseus")
    assert found is not None
    return str(found.experiment_id)


def own_outputs(search: FoundSearch, one: object, inputs: np.ndarray, aside: Path) -> np.ndarray:
    """Outputs of the network itself, rebuilt from the search's folder."""
    folder = search.folder
    name = "-".join((one.id, "recipe", "0"))  # type: ignore[attr-defined]
    outcome = folder.read_outcome(name)
    write_member(aside, outcome, folder.weights_of(name), read_sources(folder.folder))  # type: ignore[arg-type]
    with torch.no_grad():
        found: np.ndarray = (
            read_member(aside, trust_code=True).network(torch.from_numpy(inputs)).numpy()
        )
    return found


def test_a_network_becomes_a_version_linked_to_its_run(search: FoundSearch, tmp_path: Path) -> None:
    search.finish()
    tracker = MlflowTracker("found", tmp_path / "out", tmp_path / "runs.json", identity="found-id")
    tracker.begin({"trials": 2})
    tracker.outcome(evaluation(TRACED, 0.8, 1000))
    assert tracker.end() == 0

    result = register("found", TRACED.id[:6], "--alias", "champion")
    assert result.exit_code == 0, result.output
    assert f"architecture {TRACED.id} is version 1 of model found" in result.output
    assert "-m models:/found@champion" in result.output

    client = MlflowClient()
    version = client.get_model_version_by_alias("found", "champion")
    run = client.get_run(version.run_id)
    assert run.data.tags["theseus.architecture"] == TRACED.id
    assert run.data.tags["mlflow.parentRunId"]  # the search's own child run, not another one
    assert run.data.metrics["val_accuracy"] == 0.8
    (model,) = mlflow.search_logged_models([experiment()], output_format="list")
    assert model.source_run_id == run.info.run_id and model.status == "READY"
    versions = [{"name": "found", "version": version.version}]
    assert json.loads(model.tags["mlflow.modelVersions"]) == versions
    values = {metric.key: metric.value for metric in model.metrics}
    expected = {"val_accuracy": 0.8, "test_accuracy": 0.7, "macs": 1000, "params": 100}
    assert values == pytest.approx({**expected, "train_macs_spent": 99, "seconds": 1.5})
    assert model.params["blocks"] == TRACED.blocks and model.params["pairing"] == TRACED.pairing
    accurate = mlflow.search_logged_models(
        [experiment()], "metrics.val_accuracy > 0.75 and metrics.macs < 1500", output_format="list"
    )
    assert [one.model_id for one in accurate] == [model.model_id]

    loaded = mlflow.pyfunc.load_model("models:/found@champion")
    inputs = np.concatenate([loaded.input_example] * 3)
    assert inputs.shape == (3, 1, 8, 8)
    found = loaded.predict(inputs)
    np.testing.assert_allclose(
        found, own_outputs(search, TRACED, inputs, tmp_path / "own"), rtol=1e-4, atol=1e-5
    )
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    assert loaded.metadata.signature.outputs.inputs[0].shape == (-1, 10)
    requirements = mlflow.pyfunc.get_model_dependencies("models:/found@champion")
    needed = Path(requirements).read_text().split()
    assert [line.partition("==")[0] for line in needed] == ["mlflow", "torch"]
    assert isinstance(loaded.get_raw_model(), torch.nn.Module)


def test_a_program_holds_neither_code_of_the_space_nor_paths_of_this_machine(
    search: FoundSearch, tmp_path: Path
) -> None:
    search.finish()
    done = nas_theseus.register("found", TRACED.id, storage="storage", trust_code=True)
    assert (done.kind, done.alias, done.uri) == ("program", None, "models:/found/1")
    folder = Path(mlflow.artifacts.download_artifacts(done.uri, dst_path=str(tmp_path / "down")))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files if path.suffix == ".py"} == {"theseus_network.py"}
    here = str(Path(nas_theseus.__file__).parent).encode()
    assert [path for path in files if here in path.read_bytes()] == []


def test_what_cannot_be_traced_is_kept_with_the_spaces_code(
    search: FoundSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search.finish()
    result = register("found", BRANCHING.id, "--model-name", "mine")
    assert result.exit_code == 0, result.output
    assert "holds the network's code" in result.output and "branches on" in result.output
    for path in (tmp_path / "storage", tmp_path / "user"):
        path.rename(path.with_name(f"{path.name} moved"))
    loaded = mlflow.pyfunc.load_model("models:/mine/1")
    inputs = np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype(np.float32)
    found = loaded.predict(inputs)
    (tmp_path / "storage moved").rename(tmp_path / "storage")
    np.testing.assert_array_equal(found, own_outputs(search, BRANCHING, inputs, tmp_path / "own"))

    # Recorded by no tracker, so a run was made for it.
    (run,) = MlflowClient().search_runs([experiment()])
    assert run.data.params["blocks"] == BRANCHING.blocks and run.info.status == "FINISHED"
    assert run.data.metrics["test_accuracy"] == pytest.approx(0.8)

    for module in ("torch", "nas_theseus"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"not installed here: nas-theseus==.*, torch=="):
        mlflow.pyfunc.load_model("models:/mine/1")


def test_an_alias_moves_only_when_asked_to_and_a_network_is_logged_once(
    search: FoundSearch,
) -> None:
    search.finish()
    assert register("found", TRACED.id, "--alias", "champion").exit_code == 0
    again = register("found", TRACED.id, "--alias", "champion")
    assert again.exit_code == 0 and "was registered before" in again.output
    said = refusal("found", BRANCHING.id, "--alias", "champion")
    assert f"names version 1 (architecture {TRACED.id}; val_accuracy 0.8" in said
    assert "--move" in said
    client = MlflowClient()
    assert len(client.search_model_versions("name = 'found'")) == 1
    assert register("found", BRANCHING.id, "--alias", "champion", "--move").exit_code == 0
    assert int(client.get_model_version_by_alias("found", "champion").version) == 2
    for wrong in ("latest", "v3", "two words", ""):
        assert "cannot be an alias" in refusal("found", TRACED.id, "--alias", wrong)
    assert "cannot contain '/' or ':'" in refusal("found", TRACED.id, "--model-name", "a/b")


def test_an_empty_search_an_unknown_and_an_unfinished_architecture(search: FoundSearch) -> None:
    assert "no search 'other'" in refusal("other", TRACED.id)
    said = refusal("found", TRACED.id)
    assert "has no network to register. This search has begun, and has no result yet." in said
    search.finish()
    said = refusal("found", "ffff")
    assert "no architecture 'ffff'" in said and "has not finished" in said
    assert f"{TRACED.id}  val_accuracy 0.8, macs 1,000" in said and BRANCHING.id in said
    assert "was stopped at rung epoch_1" in refusal("found", STOPPED.id)
    assert "failed in step align: loss is nan" in refusal("found", FAILED.id)
    assert "no architecture ''" in refusal("found", "")
    search.folder.weights_of(f"{TRACED.id}-recipe-0").unlink()
    assert "weights" in refusal("found", TRACED.id)


def test_conditions_choose_the_best_member_of_the_front(search: FoundSearch) -> None:
    assert "has no network to register" in refusal("found", "--where", "macs > 0")
    search.finish()
    result = register("found", "--where", "macs <= 1000 and val_accuracy > 0.5")
    assert result.exit_code == 0, result.output
    assert f"architecture {TRACED.id} is version 1" in result.output
    dearer = nas_theseus.register("found", where="macs > 0", storage="storage", trust_code=True)
    assert dearer.architecture == BRANCHING.id  # 0.9 beats 0.8, whatever it costs
    said = refusal("found", "--where", "macs < 10")
    assert "no member of the front of 'found' has macs < 10" in said and TRACED.id in said
    assert "'name OP number'" in refusal("found", "--where", "macs is small")
    assert "unknown" in refusal("found", "--where", "mac < 10")
    assert "excludes --where" in refusal("found", TRACED.id, "--where", "macs > 0")
    said = refusal("found")
    assert "or --where CONDITIONS is needed" in said and TRACED.id in said


def test_the_front_is_logged_once_and_its_models_become_versions(search: FoundSearch) -> None:
    search.finish()
    done = list(nas_theseus.log_models("found", storage="storage", trust_code=True))
    assert {one.architecture for one in done} == {TRACED.id, BRANCHING.id}
    assert all(one.is_new for one in done)
    reasons = {one.architecture: (one.kind, bool(one.reason)) for one in done}
    assert reasons == {TRACED.id: ("program", False), BRANCHING.id: ("network", True)}
    again = list(nas_theseus.log_models("found", storage="storage", trust_code=True))
    ids = {one.model.model_id for one in again}
    assert ids == {one.model.model_id for one in done}
    assert not any(one.is_new for one in again)
    assert {one.reason for one in again} == {one.reason for one in done}

    result = register("found", BRANCHING.id)
    assert result.exit_code == 0 and "holds the network's code" in result.output
    found = mlflow.search_logged_models([experiment()], output_format="list")
    assert {one.model_id for one in found} == ids
    version = MlflowClient().get_model_version("found", "1")
    assert version.tags["theseus.architecture"] == BRANCHING.id and version.run_id
    assert mlflow.pyfunc.load_model("models:/found/1").metadata.model_id in ids


def test_a_search_without_a_front_logs_nothing(search: FoundSearch) -> None:
    assert list(nas_theseus.log_models("found", storage="storage", trust_code=True)) == []


def test_the_command_search_logs_its_front(search: FoundSearch, toy_space_file: Path) -> None:
    given = ["search", str(toy_space_file), "--trials", "1", "--storage", "storage"]
    given += ["--executor", "inline", "--tracker", "json-lines", "--log-models"]
    result = CliRunner().invoke(make_app(), given, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    (model,) = mlflow.search_logged_models([experiment()], output_format="list")
    assert f"model {model.tags['theseus.architecture']} logged as a program" in result.output


def test_code_is_not_run_without_consent_and_a_dead_server_is_named(
    search: FoundSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    search.finish()
    with pytest.raises(StorageError, match="--trust-code"):
        nas_theseus.register("found", TRACED.id, storage="storage")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(ServiceError, match=r"http://127.0.0.1:9 cannot be used") as caught:
        nas_theseus.register("found", TRACED.id, storage="storage", trust_code=True)
    assert "secret" not in str(caught.value)
