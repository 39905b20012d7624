"""Files that somebody damaged on purpose: each is read, set aside, or refused by one error.

Each test is of a kind that `benchmarks/soak_fuzz.py` found; it tries thousands of changes more.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas_theseus import Recipe
from nas_theseus.api.found import find_architecture, find_network
from nas_theseus.conversion.guide_work import GuideWork
from nas_theseus.errors import (
    DataError,
    EstimateError,
    GuideError,
    LibraryError,
    ServiceError,
    StorageError,
)
from nas_theseus.export.member import read_architecture, read_evaluation
from nas_theseus.guide.chain import Guide
from nas_theseus.guide.weights import read_weights
from nas_theseus.library.block_key import BlockKey
from nas_theseus.library.record import Facts
from nas_theseus.library.store import BLOCKS, DAMAGED, Library
from nas_theseus.searches.basis import Basis
from nas_theseus.searches.beginning import Beginning
from nas_theseus.searches.chance import Chance
from nas_theseus.searches.energy import Energy
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_files import read_scores
from nas_theseus.searches.records import Records
from nas_theseus.stitching.cells import Cell, Endpoint
from nas_theseus.stitching.rows import Pair
from nas_theseus.storage.json_files import MALFORMED, parse_json, read_json
from nas_theseus.storage.json_lines import JsonLines
from nas_theseus.storage.whole_files import write_json
from nas_theseus.tasks.multiple_choice import read_questions
from nas_theseus.tasks.picture_sets import saved_dataset, webdataset
from nas_theseus.tasks.pictures import count_transparent, read_picture
from nas_theseus.tasks.text_sources import TextSource, listed
from nas_theseus.values.architecture import Architecture, BlockChoice, Boundary, Span
from nas_theseus.values.goals import Objective
from nas_theseus.values.ids import short_hash
from nas_theseus.values.outcomes import BlockOutcome, Cost, Evaluation

DEEP = "[" * 100_000
# Texts that are no JSON of ours, though Python's reader takes some of them, or ends otherwise.
BAD = ["", DEEP, '{"a":' * 100_000, "NaN", '{"a": Infinity}', "1e999", "9" * 5000, "[]", "null",
       "3", '"x"', '{"a": 1}', "Ã\xad\xa0"]  # fmt: skip

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=[]), max_size=20),
    st.sampled_from(["../../x", "/etc/passwd", "nan", 10**400, -1, 1e308, [], {}, [[]], {"": 0}]),
    st.lists(st.integers() | st.text(), max_size=3),
    st.dictionaries(st.text(), st.none() | st.floats(), max_size=3),
)


def evaluation() -> Evaluation:
    return Evaluation(
        Architecture((BlockChoice(Span(0, 2), "basic", (("width", 0.5),)),)),
        "recipe", 0, {"val_accuracy": 0.5}, Cost({"macs": 100}), 1000, 2.5,
    )  # fmt: skip


def beginning() -> Beginning:
    return Beginning(
        "x", "theseus", 0, 0, True, True, (Objective("val_accuracy", "maximize"),), (), "g",
        "recipe", "s",
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    made = SearchFolder(tmp_path, "small")
    made.create()
    beginning().write(made)
    return made


@pytest.mark.parametrize("text", BAD[:7], ids=lambda text: text[:12] or "empty")
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_only_a_file_of_its_own_is_read_as_json(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    link, pipe, inner = tmp_path / "link", tmp_path / "pipe", tmp_path / "folder"
    link.symlink_to(tmp_path / "secret")
    os.mkfifo(pipe)
    inner.mkdir()
    for path in (link, pipe, inner):
        with pytest.raises(ValueError, match="a link, a folder or a pipe"):
            read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing")
    assert read_json(tmp_path / "secret") == {}


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:12] or "empty")
def test_damaged_results_are_set_aside_and_what_belongs_to_them_is_not_known(
    folder: SearchFolder, text: str
) -> None:
    name = evaluation().name
    result = folder.write_outcome(evaluation())
    block = folder.blocks / "b.json"
    others = (folder.basis_file, folder.chance_file, folder.energy_file, folder.runs_file,
              folder.front / "x" / "test.json", folder.front / "front.json")  # fmt: skip
    for path in (result, block, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert folder.read_outcome(name) is None and folder.read_block("b") is None
    assert result.with_suffix(".damaged").exists() and block.with_suffix(".damaged").exists()
    for kind in (Basis, Chance, Energy):
        assert kind.read(folder) is None
    runs = folder.run_ids()
    assert runs == {} or runs == {"a": "1"}
    assert read_scores(folder.front / "x" / "test.json") in (None, {"a": 1})
    records = Records.read(folder)
    assert records.state and records.outcomes == () and records.guide == {}
    folder.settings_file.write_text(text)
    with pytest.raises(StorageError, match="settings.json is damaged"):
        Beginning.read(folder)


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:12] or "empty")
def test_damaged_files_of_a_network_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "architecture.json"
    path.write_text(text)
    for read in (read_architecture, read_evaluation):
        with pytest.raises(StorageError, match="holds no"):
            read(path)
    assert list(JsonLines(path).read()) in ([], [{"a": 1}])
    with pytest.raises(DataError):
        read_questions(path)


@pytest.mark.parametrize("stop", [10**6, 2**31, 2**63, 10**39])
def test_a_span_of_more_parts_than_any_guide_has_is_refused(tmp_path: Path, stop: int) -> None:
    """Lists as long as the span are made of it."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"span": [0, stop], "block": "keep"}]))
    with pytest.raises(StorageError, match="at most 100,000 parts"):
        read_architecture(path)


def test_a_result_is_not_taken_for_another_one(folder: SearchFolder) -> None:
    path = folder.write_outcome(evaluation())
    other = path.with_name("0123456789ab-recipe-0.json")
    path.rename(other)
    assert folder.read_outcome("0123456789ab-recipe-0") is None
    assert other.with_suffix(".damaged").exists()


def test_a_result_without_the_objectives_is_one_error(folder: SearchFolder) -> None:
    (name,) = evaluation().metrics
    write_json(folder.evaluations / f"{evaluation().name}.json", SAVED | {"metrics": {}})
    with pytest.raises(EstimateError, match=f"has no {name}.*Delete its file"):
        Records.read(folder)


def test_a_link_in_place_of_a_result_is_not_followed(folder: SearchFolder, tmp_path: Path) -> None:
    path = folder.write_outcome(evaluation())
    prey = tmp_path / "prey.json"
    path.rename(prey)
    path.symlink_to(prey)
    assert folder.read_outcome(evaluation().name) is None
    assert prey.exists() and not path.exists()


def _places(value: Any) -> list[tuple[Any, ...]]:
    """Paths to every value inside a value of JSON."""
    if not isinstance(value, dict | list):
        return [()]
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return [(), *((name, *rest) for name, one in inner for rest in _places(one))]


def _with(value: Any, place: tuple[Any, ...], odd: Any) -> Any:
    if not place:
        return odd
    made = dict(value) if isinstance(value, dict) else list(value)
    made[place[0]] = _with(value[place[0]], place[1:], odd)
    return made


SAVED = json.loads(json.dumps(evaluation().to_json() | {"curve": [["similarity/0", 1, 0.5]]}))


@settings(max_examples=300, deadline=None)
@given(place=st.sampled_from(_places(SAVED)), odd=ODD)
def test_any_value_anywhere_in_a_result_is_a_result_or_malformed(
    place: tuple[Any, ...], odd: Any
) -> None:
    try:
        found = Evaluation.from_json(_with(SAVED, place, odd))
    except MALFORMED:
        return
    assert all(type(n) in (int, float) and math.isfinite(n) for n in found.values().values())
    assert math.isfinite(found.seconds) and isinstance(found.train_macs_spent, int)
    assert isinstance(found.name.encode(), bytes) and isinstance(found.similarities, dict)


BEGUN = json.loads(json.dumps(dataclasses.asdict(beginning())))


@settings(max_examples=200, deadline=None)
@given(place=st.sampled_from(_places(BEGUN)), odd=ODD)
def test_any_value_anywhere_in_settings_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[Any, ...], odd: Any
) -> None:
    made = SearchFolder(tmp_path_factory.getbasetemp() / "settings", "small")
    made.folder.mkdir(parents=True, exist_ok=True)
    made.settings_file.write_text(json.dumps(_with(BEGUN, place, odd)))
    try:
        found = Beginning.read(made)
    except StorageError:
        return
    assert type(found.seed) is int and isinstance(found.rungs, bool)
    assert all(goal.direction in ("maximize", "minimize") for goal in found.objectives)


@pytest.mark.parametrize("change", [{"macs": "1"}, {"seconds": None}, {"failure": 3}, {"x": 1}])
def test_a_block_s_outcome_has_numbers(folder: SearchFolder, change: dict[str, object]) -> None:
    folder.write_block(BlockOutcome("b", "mine", 1, 1.0))
    path = folder.blocks / "b.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert folder.read_block("b") is None


def test_a_cell_is_the_one_of_its_name(tmp_path: Path) -> None:
    pair = Pair("a", "b", tmp_path)
    a, b, c = Endpoint("a", True, 1), Endpoint("b", False, 2), Endpoint("b", False, 3)
    cell = Cell(a, b, 0.5, 0.4, 0.9, None, 1.0)
    path = pair.cell_file(a, b)
    path.parent.mkdir()
    path.write_text(json.dumps(cell.to_json()))
    assert pair.read(a, b) == cell
    path.rename(pair.cell_file(a, c))
    assert pair.read(a, c) is None
    for wrong in ("0.5", None, True):
        path.write_text(json.dumps(cell.to_json() | {"quality": wrong}))
        assert pair.read(a, b) is None and path.with_suffix(".damaged").exists()


@pytest.mark.parametrize("text", [DEEP, "a: " + "9" * 5000, "- " * 50_000, "a: &b [*b]", "\0"])
def test_a_runtime_environment_that_yaml_cannot_read_is_refused(tmp_path: Path, text: str) -> None:
    from nas_theseus.services.ray.runtime_environment import runtime_environment

    path = tmp_path / "env.yaml"
    path.write_text(text)
    with pytest.raises(ServiceError, match="--runtime-env"):
        runtime_environment(path)


END = Boundary((4,))
KEY = BlockKey("g" * 16, "d" * 16, Span(0, 1), "mine", (), END, END, "c" * 16, Recipe())
FACTS = Facts(similarity=0.9, residual=0.25, steps=3, macs=1000, seconds=0.5, device="cpu")


@pytest.mark.parametrize("macs", ["9" * 401, "-" + "9" * 401, "1e999", "9" * 5000])
def test_a_record_with_a_number_beyond_all_is_set_aside(tmp_path: Path, macs: str) -> None:
    """With its checksum right."""
    library = Library(tmp_path)
    library.put(KEY, {"weight": torch.eye(4)}, FACTS)
    (path,) = (tmp_path / BLOCKS).glob("*.json")
    content = json.loads(path.read_text())
    del content["checksum"]
    with suppress(ValueError):  # more digits than Python takes
        content["facts"]["macs"] = json.loads(macs)
        content["checksum"] = short_hash(content, 16)
    content["facts"]["macs"] = 123_454_321
    path.write_text(json.dumps(content).replace("123454321", macs))
    assert library.get(KEY) is None and library.verify().sound == 0
    assert list((tmp_path / DAMAGED).glob("*.txt"))


@pytest.mark.parametrize("kind", ["json", "safetensors"])
@pytest.mark.parametrize("what", ["link", "loop", "pipe", "folder"])
def test_what_is_no_file_in_a_library_is_set_aside(tmp_path: Path, kind: str, what: str) -> None:
    library = Library(tmp_path / "library")
    library.put(KEY, {"weight": torch.eye(4)}, FACTS)
    (path,) = (tmp_path / "library" / BLOCKS).glob(f"*.{kind}")
    prey = tmp_path / "prey"
    path.rename(prey)
    make: dict[str, Callable[[], object]] = {
        "link": lambda: path.symlink_to(prey),
        "loop": lambda: path.symlink_to(path.name),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }
    make[what]()
    before = prey.read_bytes()
    assert library.get(KEY) is None
    (reason,) = (tmp_path / "library" / DAMAGED).glob("*.txt")
    assert "a link, a folder or a pipe" in reason.read_text()
    assert prey.read_bytes() == before
    library.put(KEY, {"weight": torch.eye(4)}, FACTS)
    assert library.get(KEY) is not None


def test_a_library_s_folder_that_is_a_link_out_of_it_is_refused(tmp_path: Path) -> None:
    library = Library(tmp_path / "library")
    library.put(KEY, {"weight": torch.eye(4)}, FACTS)
    outside = tmp_path / "outside"
    (tmp_path / "library" / BLOCKS).rename(outside)
    (tmp_path / "library" / BLOCKS).symlink_to(outside)
    before = sorted(outside.iterdir())
    with pytest.raises(LibraryError, match="leads out of the library"):
        library.get(KEY)
    assert sorted(outside.iterdir()) == before


def test_a_library_may_be_a_link_itself(tmp_path: Path) -> None:
    Library(tmp_path / "real").put(KEY, {"weight": torch.eye(4)}, FACTS)
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    assert Library(tmp_path / "linked", create=False).get(KEY) is not None


HEADERS = {
    "brackets": b"{'descr': '<f4', 'fortran_order': False, 'shape': (((((8, 2), }",
    "huge": b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999, 2), }",
    "fewer": b"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2), }",
    "swapped": b"{'descr': '>f4', 'fortran_order': False, 'shape': (8, 2), }",
    "objects": b"{'descr': '|O', 'fortran_order': False, 'shape': (8, 2), }",
    "text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("header", [*HEADERS, "link", "pipe"])
def test_damaged_activations_are_computed_again(tmp_path: Path, header: str) -> None:
    guide = Guide([("a", nn.Linear(4, 2))], Boundary((4,)))
    work = GuideWork(tmp_path / "work", guide, torch.zeros(8, 4), torch.device("cpu"))
    wanted = torch.arange(16.0).reshape(8, 2)
    work.get("logits", lambda: wanted)
    (path,) = (tmp_path / "work").glob("*.npy")
    if header == "link":
        other = torch.zeros(8, 2).numpy()
        np.save(tmp_path / "other.npy", other)
        path.unlink()
        path.symlink_to(tmp_path / "other.npy")
    elif header == "pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        said = HEADERS[header].ljust(118) + b"\n"
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(said).to_bytes(2, "little") + said + bytes(64))
    assert torch.equal(work.get("logits", lambda: wanted), wanted)


def test_a_checkpoint_in_a_tar_file_is_not_unpacked(tmp_path: Path) -> None:
    """torch still unpacks those of before 2017, with the links in them."""
    path = tmp_path / "old.pt"
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    with pytest.raises(GuideError, match="a tar file, which is not unpacked"):
        read_weights(path)


def test_a_tar_file_of_impossible_sizes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a.png")
        member.type = b"Z"  # no file, so its size was not looked at, and the next was sought
        member.pax_headers = {"size": "9" * 30}
        archive.addfile(member)
    with pytest.raises(DataError, match="cannot be read as a tar file"):
        webdataset(path)


@pytest.mark.parametrize(
    "name", ["../secret.arrow", "/etc/passwd", "a/../../b", "..", "", "\\\\x\\y", 3, None]
)
def test_a_saved_data_set_names_files_beside_it_only(tmp_path: Path, name: object) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    state = {"_data_files": [{"filename": name}]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="state.json is damaged"):
        listed([tmp_path], ("*.txt",))


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:12] or "empty")
def test_damaged_lists_of_a_saved_data_set_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    for name in ("state.json", "dataset_dict.json"):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=f"{name} is damaged"):
            listed([tmp_path], ("*.txt",))


@pytest.mark.parametrize("text", ["x" * 5000, "small/" + "9" * 300, "a\nb", "\udcff", ""])
def test_no_network_has_a_name_that_is_none(tmp_path: Path, text: str) -> None:
    for find in (find_architecture, lambda t, root: find_network(t, root, trust_code=False)):
        with pytest.raises(StorageError):
            find(text, tmp_path)


def test_a_pipe_among_pictures_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    os.mkfifo(path)
    with pytest.raises(DataError, match="it is no file"):
        read_picture(path)
    assert count_transparent([str(path)]) == (0, 1)


def test_a_tokenizer_with_a_huge_id_is_refused(tmp_path: Path) -> None:
    """An id is an index: tables as long as the greatest one would be made."""
    from nas_theseus.tasks.tokenizing import load_tokenizer

    pytest.importorskip("tokenizers")
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": 2**31}, "unk_token": "a"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    with pytest.raises(DataError, match="a token of id 2,147,483,648"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_tokenizer_that_makes_rust_panic_is_refused(tmp_path: Path) -> None:
    """A panic is no Exception: it passed for an interrupt."""
    from nas_theseus.tasks.tokenizing import load_tokenizer

    pytest.importorskip("tokenizers")
    vocab = {"a": 0, "b": 1, "ab": 2}
    model = {"type": "BPE", "vocab": vocab, "merges": [["a", "b"]]}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"version": "1.0", "model": model}))
    assert load_tokenizer(path).encode("ab").ids == [2]
    model["continuing_subword_prefix"] = "x" * 20
    path.write_text(json.dumps({"version": "1.0", "model": model}))
    os.utime(path, (1, 1))
    with pytest.raises(DataError, match="is no tokenizer"):
        load_tokenizer(path)


def test_offsets_that_lead_out_of_a_table_are_refused(tmp_path: Path) -> None:
    """pyarrow trusts them: the process ended with a bus error."""
    pyarrow = pytest.importorskip("pyarrow")
    pictures = [{"bytes": bytes(23), "path": None}] * 3
    table = pyarrow.table({"text": ["the cat sat on the mat.", "on", "it"], "image": pictures})
    path = tmp_path / "data.arrow"
    with pyarrow.ipc.new_stream(str(path), table.schema) as stream:
        stream.write_table(table)
    data = path.read_bytes()
    offsets = (0).to_bytes(4, "little") + (23).to_bytes(4, "little")
    assert data.count(offsets) == 2  # of the texts, and of the pictures
    path.write_bytes(data.replace(offsets, offsets[:4] + (2**31 - 9).to_bytes(4, "little")))
    with pytest.raises(DataError, match="cannot be read: .*out of bounds"):
        list(TextSource((path,), "text").documents())
    with pytest.raises(DataError, match="cannot be read: .*out of bounds"):
        saved_dataset(path)


CONFIGS = [{"architectures": "x"}, {"architectures": [3]}, {"architectures": {"a": 1}}, [], "x", 3]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_model_s_configuration_with_other_kinds_of_values_is_refused(
    tmp_path: Path, config: object
) -> None:
    pytest.importorskip("transformers")
    from nas_theseus.guide.huggingface import load_language_model

    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(GuideError, match=r"config\.json in"):
        load_language_model(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"image_mean": 0.5}, {"rescale_factor": "x"}, {"resample": ".."}, {"image_std": [{}]}],
)
def test_a_preprocessing_of_other_kinds_of_values_is_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    pytest.importorskip("transformers")
    from nas_theseus.guide.sources import hf

    said = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16},
            "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said | change))
    with pytest.raises(GuideError, match=r"preprocessor_config\.json in"):
        hf._preprocessing(hf.transformers_package(), tmp_path)


def test_a_picture_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    """A header of 30,000 by 30,000 pixels; nothing of that size is allocated."""
    from PIL import Image

    written = io.BytesIO()
    Image.new("L", (8, 8)).save(written, "PNG")
    data = bytearray(written.getvalue())
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(DataError, match="too large"):
        read_picture(tmp_path / "bomb.png")
