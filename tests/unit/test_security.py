"""What others send is data: malicious files, names and addresses; see docs/guides/security.md."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import nas_theseus
from nas_theseus import Recipe
from nas_theseus.api.found import find_network
from nas_theseus.errors import GuideError, LibraryError, ServiceError, SpaceError, StorageError
from nas_theseus.guide.weights import read_weights
from nas_theseus.library import store as library_module
from nas_theseus.library.block_key import BlockKey
from nas_theseus.library.record import Facts
from nas_theseus.library.store import BLOCKS, DAMAGED, Library
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_files import read_front
from nas_theseus.services.optuna.storage import reach
from nas_theseus.storage.blobs import Blobs
from nas_theseus.storage.redaction import scrub, without_credentials
from nas_theseus.values.architecture import Boundary, Span
from nas_theseus.values.ids import short_hash
from nas_theseus.values.settings import SearchSettings
from nas_theseus.values.validation import validated

FACTS = Facts(similarity=0.9, residual=0.25, steps=3, macs=1000, seconds=0.5, device="cpu")
END = Boundary((4,))
KEY = BlockKey("g" * 16, "d" * 16, Span(0, 1), "mine", (), END, END, "c" * 16, Recipe())
STATE = {"weight": torch.eye(4)}


class Payload:
    """A pickle of it makes a folder when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    made = Library(tmp_path / "library")
    made.put(KEY, STATE, FACTS)
    return made


def rewrite(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change the only record in a library, its checksum made right again."""
    (path,) = (folder / BLOCKS).glob("*.json")
    content = json.loads(path.read_text())
    change(content)
    del content["checksum"]
    content["checksum"] = short_hash(content, 16)
    path.write_text(json.dumps(content))


def test_a_pickle_as_guide_weights_is_refused_and_not_run(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    plain, saved = tmp_path / "plain.pt", tmp_path / "saved.pt"
    plain.write_bytes(pickle.dumps({"weight": Payload(target)}))
    torch.save({"weight": Payload(target)}, saved)
    for path in (plain, saved):
        with pytest.raises(GuideError):
            read_weights(path)
    assert not target.exists()
    pickle.loads(plain.read_bytes())
    assert target.exists()  # it would have run


def test_a_pickle_in_the_library_is_set_aside_and_not_run(library: Library, tmp_path: Path) -> None:
    target = tmp_path / "ran"
    evil = pickle.dumps(Payload(target))
    digest = hashlib.sha256(evil).hexdigest()
    folder = tmp_path / "library"
    rewrite(folder, lambda record: record.update(sha256=digest, size_bytes=len(evil)))
    (folder / BLOCKS / f"{KEY.id}.{digest[:16]}.safetensors").write_bytes(evil)
    assert library.get(KEY, nn.Linear(4, 4, bias=False)) is None
    assert not target.exists()
    (reason,) = (folder / DAMAGED).glob("*.txt")
    assert "not a safetensors file" in reason.read_text()


def test_no_module_loads_pickles() -> None:
    """`torch.load` only with weights_only=True; no pickle, shelve, joblib or allow_pickle."""
    found = []
    for path in Path(str(nas_theseus.__file__)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            pickling = {"pickle", "cloudpickle", "shelve", "joblib"}
            found += [f"{path}: imports {n}" for n in names if n.partition(".")[0] in pickling]
            if not isinstance(node, ast.Call):
                continue
            options = {key.arg: ast.unparse(key.value) for key in node.keywords}
            if ast.unparse(node.func) == "torch.load" and options.get("weights_only") != "True":
                found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
            if options.get("allow_pickle", "False") != "False":
                found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    assert found == []


def test_a_record_cannot_name_a_file_outside_the_library(library: Library, tmp_path: Path) -> None:
    """The hash is part of a file's name: it must not lead elsewhere, to read, move or remove."""
    folder = tmp_path / "library"
    prey = tmp_path / "prey.safetensors"
    (weights,) = (folder / BLOCKS).glob("*.safetensors")
    shutil.copy(weights, prey)
    (folder / BLOCKS / f"{KEY.id}.").mkdir()
    rewrite(folder, lambda record: record.update(sha256="/../../../prey" + "0" * 50))
    assert library.get(KEY) is None and KEY not in library
    library.verify()
    library.prune(guide="g")
    assert prey.exists()
    assert list((folder / DAMAGED).glob("*.txt"))


@pytest.mark.parametrize("name", ["../x.json", "blocks/../../x.json", "/etc/passwd"])
def test_no_name_leads_out_of_the_library(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("secret")
    blobs = Blobs(tmp_path / "library")
    for call in (blobs.read, blobs.size, blobs.remove, lambda n: blobs.write(n, b"")):
        with pytest.raises(LibraryError, match="leads out of the library"):
            call(name)
    assert (tmp_path / "x.json").read_text() == "secret"


def test_a_record_that_is_too_large_is_not_read_whole(library: Library, tmp_path: Path) -> None:
    (path,) = (tmp_path / "library" / BLOCKS).glob("*.json")
    with path.open("r+b") as file:
        file.truncate(200 * 2**30)  # sparse: to read it would fill the memory
    assert library.record(KEY) is None
    (reason,) = (tmp_path / "library" / DAMAGED).glob("*.txt")
    assert "more than 1,048,576 bytes" in reason.read_text()


def test_weights_that_are_too_large_are_not_read(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_module, "MAX_WEIGHTS_BYTES", 10)
    assert library.get(KEY) is None
    (reason,) = (tmp_path / "library" / DAMAGED).glob("*.txt")
    assert "the weights have more than 10 bytes" in reason.read_text()


@pytest.mark.parametrize(
    "text",
    [b"[" * 100_000, b'{"checksum": 1}', b"[]", b"\xff\xfe", b'{"a": NaN, "checksum": "x"}'],
    ids=["nested", "short", "list", "bytes", "nan"],
)
def test_a_record_of_anything_is_set_aside(library: Library, tmp_path: Path, text: bytes) -> None:
    (path,) = (tmp_path / "library" / BLOCKS).glob("*.json")
    path.write_bytes(text)
    assert library.get(KEY) is None
    library.put(KEY, STATE, FACTS)
    assert library.get(KEY) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"residual": "0"},
        {"residual": True},
        {"macs": None},
        {"device": 3},
        {"divergence": "0"},
        {"divergence_macs": None},
    ],
    ids=["text", "truth", "nothing", "device", "score", "score's macs"],
)
def test_facts_that_are_no_numbers_are_set_aside(
    library: Library, tmp_path: Path, change: dict[str, object]
) -> None:
    def apply(record: dict[str, object]) -> None:
        facts = record["facts"]
        assert isinstance(facts, dict)
        facts.update(change)

    rewrite(tmp_path / "library", apply)
    assert library.record(KEY) is None


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", "", "a\n", "x" * 101])
def test_a_search_s_name_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="cannot be a search's name"):
        validated(SearchSettings, {"name": name}, "search")
    with pytest.raises(StorageError, match="cannot be a search's name"):
        read_front(SearchFolder(tmp_path, name))
    assert list(tmp_path.iterdir()) == []


def test_folders_that_no_search_made_are_no_searches(tmp_path: Path) -> None:
    (tmp_path / "searches" / ".trash").mkdir(parents=True)
    with pytest.raises(StorageError, match="no network"):
        find_network("0" * 12, tmp_path, trust_code=True)


ADDRESSES = [
    ("postgresql://anna:s3cr%2Ft@db.example:5432/optuna", "postgresql://db.example:5432/optuna"),
    ("postgresql://db.example/optuna?password=s3cr%2Ft", "postgresql://db.example/optuna"),
    ("https://anna:s3cr%2Ft@mlflow.example/base?token=t0ken", "https://mlflow.example/base"),
    ("http://[s3cr%2Ft", "http://…"),
]


@pytest.mark.parametrize(("address", "shown"), ADDRESSES)
def test_addresses_are_shown_without_secrets(address: str, shown: str) -> None:
    assert without_credentials(address) == shown
    told = scrub(f"cannot open {address} as anna", address)
    assert not any(secret in told for secret in ("s3cr", "t0ken"))


def test_a_driver_s_message_is_shown_without_the_password() -> None:
    address = "postgresql://anna:s3cr%2Ft@db.example/optuna"
    assert "s3cr" not in scrub("FATAL: password 's3cr/t' refused (s3cr%2Ft)", address)


@pytest.mark.parametrize(
    "address",
    ["nosuch://anna:s3cret@127.0.0.1/x", "postgresql://anna:s3cret@127.0.0.1:1/x",
     "redis://anna:s3cret@127.0.0.1:1"],
)  # fmt: skip
def test_a_study_that_cannot_be_opened_is_told_without_the_password(address: str) -> None:
    with pytest.raises(ServiceError, match="Optuna's storage .* cannot be used") as told:
        reach(address)
    assert "s3cret" not in str(told.value) and told.value.__cause__ is None
    assert told.value.__suppress_context__


def test_a_library_that_cannot_be_opened_is_told_without_the_password() -> None:
    with pytest.raises(LibraryError) as told:
        Library("nosuch://anna:s3cret@127.0.0.1/x")
    assert "s3cret" not in str(told.value)
