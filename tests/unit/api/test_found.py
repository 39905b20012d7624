"""The command `export` on a real network of digits: from a folder, a search and an MLflow run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import mlflow
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner, Result

import nas_theseus
from nas_theseus.cli.app import make_app
from nas_theseus.conversion.target import assemble
from nas_theseus.errors import GuideError, ServiceError, StorageError, TheseusError
from nas_theseus.export.member import member_files, read_member, write_member
from nas_theseus.guide.weights import plain_state
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.services.mlflow import MlflowTracker
from nas_theseus.space.load import load_space
from nas_theseus.space.sources import gather
from nas_theseus.storage.whole_files import write_tensors
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import Cost, Evaluation
from nas_theseus.values.tracking import ResultFiles, Results

SPACE = Path(__file__).resolve().parents[3] / "search_spaces" / "digits.py"
ARCHITECTURE = Architecture(
    (
        BlockChoice(Span(0, 1), "keep"),
        BlockChoice(Span(1, 3), "token_mlp", (("hidden", 16),)),
        BlockChoice(Span(3, 5), "depthwise", (("expand", 2), ("kernel", 3))),
        BlockChoice(Span(5, 6), "keep"),
    )
)
EVALUATION = Evaluation(ARCHITECTURE, "r", 0, {"val_accuracy": 0.5}, Cost(10, 5), 0, 0.1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a network as a search writes it; its weights need no training here."""
    folder = tmp_path_factory.mktemp("made") / "net"
    network = assemble(load_space(SPACE), ARCHITECTURE, 0)
    write_tensors(folder / "weights.safetensors", plain_state(network))
    write_member(folder, EVALUATION, folder / "weights.safetensors", gather(SPACE))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    shutil.copytree(made, tmp_path / "net")
    return tmp_path / "net"


def export(*arguments: str | Path) -> Result:
    return CliRunner().invoke(make_app(), ["export", *map(str, arguments)])


def refusal(*arguments: str | Path) -> TheseusError:
    result = export(*arguments, "--format", "safetensors")
    assert isinstance(result.exception, TheseusError), result.output
    return result.exception


@pytest.mark.parametrize(
    ("form", "suffix"), [("safetensors", ".safetensors"), ("torch-export", ".pt2")]
)
def test_a_folder_becomes_a_file_and_says_what_was_checked(
    folder: Path, form: str, suffix: str
) -> None:
    result = export(folder, "--format", form, "--trust-code")
    assert result.exit_code == 0, result.output
    path = Path(f"{ARCHITECTURE.id}{suffix}")
    assert f"{path}: {path.stat().st_size:,} bytes" in result.output
    assert re.search(
        r"64 validation inputs in batches of 64 and 1: outputs differ by at most [\de.-]+ \(",
        result.output,
    )


def test_onnx_runs_in_onnxruntime(folder: Path) -> None:
    for need in ("onnx", "onnxscript"):
        pytest.importorskip(need)
    onnxruntime = pytest.importorskip("onnxruntime")
    result = export(folder, "--format", "onnx", "--trust-code", "--out", "new/net.onnx")
    assert result.exit_code == 0, result.output
    inputs = torch.randn(5, 1, 8, 8)
    found = onnxruntime.InferenceSession("new/net.onnx").run(None, {"inputs": inputs.numpy()})[0]
    with torch.no_grad():
        expected = nas_theseus.load(folder, trust_code=True)(inputs)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)


def test_a_member_of_a_search_is_found_by_its_architecture(folder: Path) -> None:
    member = SearchFolder(Path("theseus"), "one").front / ARCHITECTURE.id
    shutil.copytree(folder, member)
    result = export(ARCHITECTURE.id, "--format", "safetensors", "--trust-code", "--out", "a.st")
    assert result.exit_code == 0, result.output
    weights = safetensors.torch.load_file("a.st")
    assert weights.keys() == safetensors.torch.load_file(folder / "weights.safetensors").keys()


def test_the_code_of_a_network_is_not_run_without_consent(folder: Path) -> None:
    (folder / "space.py").write_text("raise SystemExit('it ran')")
    error = refusal(folder)
    assert isinstance(error, StorageError)
    assert "space.py" in str(error) and "--trust-code" in str(error)
    assert "--trust-code" in str(refusal("0" * 32))
    assert not list(Path().glob("*.safetensors"))


def test_what_is_no_network_is_refused(folder: Path) -> None:
    assert "no network 'nothing'" in str(refusal("nothing", "--trust-code"))
    (folder / "weights.safetensors").write_bytes(b"\0" * 40)
    assert isinstance(refusal(folder, "--trust-code"), GuideError)
    (folder / "architecture.json").write_text("[]")
    assert "holds no evaluation" in str(refusal(folder, "--trust-code"))
    (folder / "architecture.json").unlink()
    assert "architecture.json missing" in str(refusal(folder, "--trust-code"))


def test_from_an_mlflow_run(folder: Path, tmp_path: Path) -> None:
    """As a search keeps it: a child run with the artifact, a parent run without."""
    tracker = MlflowTracker("one", tmp_path / "outbox", tmp_path / "runs.json")
    tracker.begin({"trials": 1})
    tracker.outcome(EVALUATION)
    files = ResultFiles(folder, member_files(folder), place="network", architecture=ARCHITECTURE.id)
    tracker.results(Results({}, {}, (files,)))
    assert tracker.end() == 0
    before = read_member(folder, trust_code=True)
    shutil.rmtree(folder)
    found = mlflow.search_runs(experiment_names=["nas-theseus"], output_format="list")
    runs = {run.info.run_name: run.info.run_id for run in found}

    run = runs[ARCHITECTURE.id]
    result = export(run, "--format", "safetensors", "--trust-code", "--out", "net.safetensors")
    assert result.exit_code == 0, result.output
    weights = safetensors.torch.load_file("net.safetensors")
    torch.testing.assert_close(weights, plain_state(before.network), rtol=0, atol=0)

    error = refusal(runs["one"], "--trust-code")
    assert isinstance(error, ServiceError) and "keeps no network" in str(error)
    error = refusal("0" * 32, "--trust-code")
    assert isinstance(error, ServiceError) and "MLFLOW_TRACKING_URI" in str(error)


def test_a_server_that_is_not_there_is_named_without_its_password(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    error = refusal("0" * 32, "--trust-code")
    assert isinstance(error, ServiceError)
    assert "http://127.0.0.1:9" in str(error) and "secret" not in str(error)
