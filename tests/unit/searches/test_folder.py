"""Whole writes, damaged results set aside."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas_theseus.errors import StorageError
from nas_theseus.export.member import read_architecture
from nas_theseus.searches.folder import SearchFolder, searches
from nas_theseus.storage.whole_files import replacing, write_bytes, write_json
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import Cost, Evaluation, Failure, Stopped

ARCHITECTURE = Architecture((BlockChoice(Span(0, 1), "keep"),))
EVALUATION = Evaluation(
    ARCHITECTURE, "r", 0, {"val_accuracy": 0.5}, Cost({"macs": 1, "params": 1}), 0, 0.1
)


@pytest.fixture
def storage(tmp_path: Path) -> SearchFolder:
    found = SearchFolder(tmp_path / "theseus", "one")
    found.create()
    return found


def test_outcomes_are_kept_and_found(storage: SearchFolder) -> None:
    storage.write_outcome(EVALUATION)
    failure = Failure(ARCHITECTURE, "r", 1, "convert", "diverged")
    storage.write_outcome(failure)
    assert storage.read_outcome(EVALUATION.name) == EVALUATION
    assert list(storage.outcomes()) == [EVALUATION, failure]
    assert storage.read_outcome("nothing") is None
    assert searches(storage.root) == ["one"]


def test_a_result_in_full_counts_before_that_of_a_rung(storage: SearchFolder) -> None:
    stopped = Stopped("epoch_1", EVALUATION, {"val_accuracy": 0.75}, 30)
    path = storage.write_outcome(stopped)
    assert storage.read_outcome(EVALUATION.name) == stopped
    assert list(storage.outcomes()) == [stopped]
    storage.write_outcome(EVALUATION)
    assert list(storage.outcomes()) == [EVALUATION]
    path.write_text("{}")
    storage.evaluations.joinpath(f"{EVALUATION.name}.json").unlink()
    assert storage.read_outcome(EVALUATION.name) is None
    assert not path.exists()


def test_a_damaged_result_is_set_aside_and_counts_as_absent(storage: SearchFolder) -> None:
    path = storage.write_outcome(EVALUATION)
    path.write_text(path.read_text()[:30])
    assert storage.read_outcome(EVALUATION.name) is None
    assert path.with_suffix(".damaged").exists() and not path.exists()


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"new": float("nan")})
    assert path.read_text() == '{\n "old": 1\n}'
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_a_storage_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written.*--storage"):
        SearchFolder(tmp_path / "file", "one").create()


def test_an_architecture_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, ARCHITECTURE.to_json())
    assert read_architecture(path) == ARCHITECTURE
    write_json(path, EVALUATION.to_json())
    assert read_architecture(path) == ARCHITECTURE
    path.write_text("{}")
    with pytest.raises(StorageError, match="holds no architecture"):
        read_architecture(path)


def test_an_error_half_way_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError, match="half-way"), replacing(path) as aside:
        aside.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        raise RuntimeError("half-way")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*net\.onnx: .* another folder"):
        write_bytes(tmp_path / "file" / "net.onnx", b"")
