"""The command `export` on a real network of digits: from a folder, a search and an MLflow run."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner, Result

import nas_theseus
from nas_theseus.api.found import find_architecture, find_network
from nas_theseus.cli.app import make_app
from nas_theseus.conversion.target import assemble
from nas_theseus.errors import GuideError, ServiceError, StorageError, TheseusError
from nas_theseus.export.member import member_files, read_member, write_member
from nas_theseus.guide.weights import plain_state
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.services.mlflow import MlflowTracker
from nas_theseus.space.load import load_space
from nas_theseus.space.sources import gather
from nas_theseus.storage.whole_files import write_json, write_tensors
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
EVALUATION = Evaluation(
    ARCHITECTURE, "r", 0, {"val_accuracy": 0.5}, Cost({"macs": 10, "params": 5}), 0, 0.1
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a network as a search writes it; its weights need no training here.

    Its space file imports the example space from a module beside it.
    """
    folder = tmp_path_factory.mktemp("made") / "net"
    own = folder.parent / "mine.py"
    own.write_text("from own.example import space")
    (own.parent / "own").mkdir()
    shutil.copy(SPACE, own.parent / "own" / "example.py")
    network = assemble(load_space(SPACE), ARCHITECTURE, 0)
    write_tensors(folder / "weights.safetensors", plain_state(network))
    write_member(folder, EVALUATION, folder / "weights.safetensors", gather(own))
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


def test_an_id_on_two_fronts_is_refused_with_the_name_of_each(folder: Path) -> None:
    for name, accuracy in (("bad", 0.4), ("good", 0.92)):
        member = SearchFolder(Path("theseus"), name).front / ARCHITECTURE.id
        shutil.copytree(folder, member)
        evaluation = replace(EVALUATION, metrics={"val_accuracy": accuracy})
        write_json(member / "architecture.json", evaluation.to_json())
    error = str(refusal(ARCHITECTURE.id, "--trust-code"))
    assert f"bad/{ARCHITECTURE.id}  (val_accuracy 0.4)" in error
    assert f"good/{ARCHITECTURE.id}  (val_accuracy 0.92)" in error
    root = Path("theseus")
    found = find_network(f"good/{ARCHITECTURE.id}", root, trust_code=True)
    assert found.evaluation.metrics == {"val_accuracy": 0.92}
    path = root / "searches" / "bad" / "front" / ARCHITECTURE.id
    assert find_network(str(path), root, trust_code=True).evaluation.metrics["val_accuracy"] == 0.4
    with pytest.raises(StorageError, match="no network 'other/"):
        find_network(f"other/{ARCHITECTURE.id}", root, trust_code=True)


def test_a_folder_that_is_called_as_a_front_member_is_told_from_it(folder: Path) -> None:
    member = SearchFolder(Path("theseus"), "one").front / ARCHITECTURE.id
    shutil.copytree(folder, member)
    shutil.copytree(folder, ARCHITECTURE.id)
    error = str(refusal(ARCHITECTURE.id, "--trust-code"))
    assert f"./{ARCHITECTURE.id}  (" in error and f"one/{ARCHITECTURE.id}  (" in error
    for name in (f"./{ARCHITECTURE.id}", f"one/{ARCHITECTURE.id}"):
        found = find_network(name, Path("theseus"), trust_code=True)
        assert found.evaluation.architecture == ARCHITECTURE


def test_an_architecture_is_found_by_its_id_in_any_search(folder: Path) -> None:
    root = Path("theseus")
    for name in ("first", "second"):
        SearchFolder(root, name).create()
        SearchFolder(root, name).write_outcome(EVALUATION)
    names = [ARCHITECTURE.id, f"second/{ARCHITECTURE.id}", "net", "net/architecture.json"]
    assert {find_architecture(name, root) for name in names} == {ARCHITECTURE}
    for wrong in ("0" * 12, f"third/{ARCHITECTURE.id}", "nothing", f"../first/{ARCHITECTURE.id}"):
        with pytest.raises(StorageError, match="no architecture.*give ID or SEARCH/ID"):
            find_architecture(wrong, root)
    with pytest.raises(StorageError, match="holds no architecture"):
        find_architecture("nothing.json", root)


def test_the_beginning_of_an_id_is_enough_if_only_one_has_it(folder: Path) -> None:
    root, search = Path("theseus"), SearchFolder(Path("theseus"), "one")
    search.create()
    search.write_outcome(EVALUATION)
    shutil.copytree(folder, search.front / ARCHITECTURE.id)
    short = ARCHITECTURE.id[:4]
    for name in (short, f"one/{short}"):
        assert find_network(name, root, trust_code=True).evaluation.architecture == ARCHITECTURE
        assert find_architecture(name, root) == ARCHITECTURE
    with pytest.raises(StorageError, match=f"no network '{short[:3]}'"):
        find_network(short[:3], root, trust_code=True)

    beginning = ARCHITECTURE.id[:5]
    other = search.front / f"{beginning}{'0' * 7}"
    shutil.copytree(folder, other)
    with pytest.raises(StorageError, match=f"2 networks are called '{beginning}'") as caught:
        find_network(beginning, root, trust_code=True)
    assert f"one/{other.name}" in str(caught.value) and f"one/{ARCHITECTURE.id}" in str(
        caught.value
    )


def test_a_beginning_of_two_architectures_is_refused_with_both(folder: Path) -> None:
    root, search = Path("theseus"), SearchFolder(Path("theseus"), "one")
    search.create()
    # Enough architectures for two whose ids have the same four characters at the beginning.
    by_beginning: dict[str, Architecture] = {}
    for hidden in range(1, 3000):
        first, block, *rest = ARCHITECTURE.choices
        one = Architecture((first, replace(block, hyperparameters=(("hidden", hidden),)), *rest))
        other = by_beginning.setdefault(one.id[:4], one)
        if other is not one:
            break
    for each in (one, other):
        search.write_outcome(replace(EVALUATION, architecture=each))
    with pytest.raises(StorageError, match="2 architectures begin with") as caught:
        find_architecture(one.id[:4], root)
    assert one.id in str(caught.value) and other.id in str(caught.value)


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

    run = runs[f"{ARCHITECTURE.id[:8]} token_mlp, depthwise"]
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
