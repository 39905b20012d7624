"""The store of converted blocks: whole entries or none, damage found, clear errors."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import fsspec
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from nas_theseus import Recipe
from nas_theseus.errors import LibraryError
from nas_theseus.library.block_key import BlockKey
from nas_theseus.library.record import Facts
from nas_theseus.library.store import BLOCKS, DAMAGED, Library
from nas_theseus.values.architecture import Boundary, Span
from nas_theseus.values.ids import short_hash

FACTS = Facts(similarity=0.9, residual=0.25, steps=3, macs=1000, seconds=0.5, device="cpu")


def make_key(guide: str = "g" * 16, block: str = "mine") -> BlockKey:
    inlet, outlet = Boundary((4, 8, 8)), Boundary((8, 4, 4))
    return BlockKey(
        guide, "d" * 16, Span(1, 2), block, (("hidden", 4),), inlet, outlet, "c" * 16, Recipe()
    )


KEY = make_key()
STATE = {"weight": torch.arange(1000.0).reshape(10, 100), "steps": torch.tensor(3)}


@pytest.fixture(params=["folder", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path / "library")
    else:
        address = f"memory://{tmp_path.name}/library"
        yield address
        fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def file_of(library_folder: Path, suffix: str) -> Path:
    (found,) = (library_folder / BLOCKS).glob(f"*{suffix}")
    return found


def same(state: object, other: dict[str, Tensor]) -> bool:
    assert isinstance(state, dict)
    return state.keys() == other.keys() and all(torch.equal(state[n], other[n]) for n in other)


def test_what_is_put_is_found_again(location: str) -> None:
    library = Library(location)
    assert KEY not in library and library.get(KEY) is None
    record = library.put(KEY, STATE, FACTS)
    again = Library(location, create=False)
    entry = again.get(KEY)
    assert KEY in again and entry is not None
    assert same(entry.state, STATE)
    assert entry.record == record and record.facts == FACTS and record.key == KEY
    assert list(again.entries()) == [record]
    assert make_key(block="other") not in again
    assert again.verify().sound == 1


def test_records_of_many_keys_are_those_that_are_there(location: str) -> None:
    library, other, absent = Library(location), make_key(block="other"), make_key(block="absent")
    put = {key.id: library.put(key, STATE, FACTS) for key in (KEY, other)}
    assert library.records([KEY, absent, other]) == put
    assert library.records([absent]) == {}


def test_put_is_idempotent_and_the_first_stays(location: str) -> None:
    library = Library(location)
    first = library.put(KEY, STATE, FACTS)
    other = {name: tensor + 1 for name, tensor in STATE.items()}
    assert library.put(KEY, other, FACTS) == first
    entry = library.get(KEY)
    assert entry is not None and same(entry.state, STATE)
    found = library.verify()
    assert (found.sound, found.set_aside, found.leftovers) == (1, (), 0)


def test_of_two_writers_at_once_elsewhere_the_first_record_wins() -> None:
    address = "memory://two-writers"
    library = Library(address)
    record = library.put(KEY, STATE, FACTS)
    text = library._blobs.read(f"{BLOCKS}/{KEY.id}.json")
    assert not library._blobs.write(f"{BLOCKS}/{KEY.id}.json", b"later", exclusive=True)
    assert library._blobs.read(f"{BLOCKS}/{KEY.id}.json") == text
    assert list(library.entries()) == [record]


def test_tensors_that_share_memory_or_are_not_contiguous_are_kept(tmp_path: Path) -> None:
    library = Library(tmp_path)
    base = torch.arange(6.0).reshape(2, 3)
    library.put(KEY, {"a": base, "b": base, "c": base.T}, FACTS)
    entry = library.get(KEY)
    assert entry is not None and torch.equal(entry.state["c"], base.T)


def damage_weights(folder: Path, how: str) -> None:
    path = file_of(folder, ".safetensors")
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[:-7])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def damage_record(folder: Path, how: str) -> None:
    path = file_of(folder, ".json")
    text = path.read_bytes()
    if how == "record truncated":
        path.write_bytes(text[:-20])
    elif how == "record empty":
        path.write_bytes(b"")
    elif how == "record of something else":
        path.write_text("[1, 2]")
    elif how == "record not text":
        path.write_bytes(b"\xff\xfe\x00")
    else:  # one digit of the error, still good JSON
        changed = text.replace(b'"residual": 0.25', b'"residual": 0.05')
        assert changed != text
        path.write_bytes(changed)


DAMAGES = [
    (damage_weights, "gone"), (damage_weights, "truncated"), (damage_weights, "empty"),
    (damage_weights, "one bit"), (damage_record, "record truncated"),
    (damage_record, "record empty"), (damage_record, "record of something else"),
    (damage_record, "record not text"), (damage_record, "record: one digit"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "how"), DAMAGES, ids=[how for _, how in DAMAGES])
def test_damage_is_found_set_aside_told_and_made_again(
    damage: object, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library = Library(tmp_path)
    other = library.put(make_key(block="other"), STATE, FACTS)
    shutil.move(tmp_path / BLOCKS, tmp_path / "sound")
    library.put(KEY, STATE, FACTS)
    damage(tmp_path, how)  # type: ignore[operator]
    for path in (tmp_path / "sound").iterdir():
        shutil.move(path, tmp_path / BLOCKS)

    with caplog.at_level(logging.WARNING):
        assert library.get(KEY) is None
    assert KEY.id in caplog.text
    (reason,) = (tmp_path / DAMAGED).glob("*.txt")
    assert reason.read_text().strip() in caplog.text
    assert list((tmp_path / DAMAGED).glob(f"{KEY.id}.*.json"))
    assert list(library.entries()) == [other]
    library.put(KEY, STATE, FACTS)
    entry = library.get(KEY)
    assert entry is not None and same(entry.state, STATE)
    assert library.verify().set_aside == ()


def test_verify_sets_every_damaged_entry_aside_and_says_why(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.put(KEY, STATE, FACTS)
    damage_weights(tmp_path, "one bit")
    library.put(make_key(block="other"), STATE, FACTS)
    found = library.verify()
    assert found.sound == 1
    assert [(damaged.id, damaged.reason) for damaged in found.set_aside] == [
        (KEY.id, "the weights' SHA-256 differs from the record's")
    ]
    assert library.verify().set_aside == ()


def test_a_record_under_another_name_is_damaged(tmp_path: Path) -> None:
    library = Library(tmp_path)
    record = library.put(KEY, STATE, FACTS)
    wrong = make_key(block="other")
    shutil.copy(tmp_path / BLOCKS / f"{KEY.id}.json", tmp_path / BLOCKS / f"{wrong.id}.json")
    assert library.get(wrong) is None
    assert list(library.entries()) == [record]  # whose weights stay where they are
    assert library.get(KEY) is not None


@pytest.mark.parametrize("misfit", ["name", "shape", "type"])
def test_weights_of_another_block_are_damage(misfit: str, tmp_path: Path) -> None:
    library = Library(tmp_path)
    block = nn.Linear(3, 2)
    state = dict(block.state_dict())
    library.put(KEY, state, FACTS)
    assert library.get(KEY, block) is not None
    other = nn.Linear(3, 2, bias=False) if misfit == "name" else nn.Linear(3, 4)
    if misfit == "type":
        other = nn.Linear(3, 2).double()
    assert library.get(KEY, other) is None
    (reason,) = (tmp_path / DAMAGED).glob("*.txt")
    assert "tensors do not fit Linear" in reason.read_text()
    assert KEY not in library


def test_damaged_weights_that_are_no_safetensors_are_told(tmp_path: Path) -> None:
    """Not to be had by damage, as the hash tells first; a faulty writer could."""
    library = Library(tmp_path)
    record = library.put(KEY, STATE, FACTS)
    content = b"nothing"
    digest = hashlib.sha256(content).hexdigest()
    forged = replace(record, sha256=digest, size_bytes=len(content))
    (tmp_path / BLOCKS / forged.weights).write_bytes(content)
    (tmp_path / BLOCKS / f"{KEY.id}.json").write_bytes(forged.to_bytes())
    assert library.get(KEY) is None
    assert "not a safetensors file" in next((tmp_path / DAMAGED).glob("*.txt")).read_text()


def test_an_entry_is_plain_json_and_safetensors(tmp_path: Path) -> None:
    Library(tmp_path).put(KEY, STATE, FACTS)
    read = json.loads(file_of(tmp_path, ".json").read_text())
    assert BlockKey.from_json(read["key"]) == KEY
    assert read["facts"]["residual"] == 0.25 and read["version"]
    assert same(safetensors.torch.load_file(file_of(tmp_path, ".safetensors")), STATE)


WRITER = """
import sys, time
from dataclasses import replace
from pathlib import Path
import torch
from nas_theseus.library.block_key import BlockKey
from nas_theseus.library.store import Library
from nas_theseus.library.record import Facts
from nas_theseus import Recipe
from nas_theseus.values.architecture import Boundary, Span
from nas_theseus.values.ids import short_hash

folder, value = Path(sys.argv[1]), float(sys.argv[2])
key = BlockKey("g", "d", Span(0, 1), "b", (), Boundary((4,)), Boundary((4,)), "c", Recipe())
facts = Facts(value, value, 1, 1, 1.0, "cpu")
library = Library(folder / "library")
(folder / f"ready-{sys.argv[2]}").touch()
while not (folder / "go").exists():
    pass
for index in range(40):
    state = {"value": torch.full((5000,), value)}
    library.put(replace(key, block=f"b{index}"), state, facts)
"""


def test_two_processes_that_put_the_same_keys_at_once_never_mix(tmp_path: Path) -> None:
    """Their bits differ, as on two kinds of machine: each entry is of one of them."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), value], env=environment)
        for value in ("1.0", "2.0")
    ]
    try:
        while len(list(tmp_path.glob("ready-*"))) < 2:
            assert all(writer.poll() is None for writer in writers)
        (tmp_path / "go").touch()
        assert [writer.wait(60) for writer in writers] == [0, 0]
    finally:
        for writer in writers:
            writer.kill()
    library = Library(tmp_path / "library", create=False)
    found = library.verify()
    assert (found.sound, found.set_aside) == (40, ())
    for record in library.entries():
        entry = library.get(record.key)
        assert entry is not None
        assert bool((entry.state["value"] == record.facts.residual).all())


def test_a_library_is_not_made_where_it_is_only_read(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="there is no library at .*nothing"):
        Library(tmp_path / "nothing", create=False)
    assert not (tmp_path / "nothing").exists()


def test_storage_that_vanished_is_no_empty_library(location: str) -> None:
    library = Library(location)
    library.put(KEY, STATE, FACTS)
    filesystem, root = fsspec.url_to_fs(location)
    filesystem.rm(root, recursive=True)
    for use in (library.get, library.__contains__):
        with pytest.raises(LibraryError, match="is gone.*mount or restore"):
            use(KEY)
    with pytest.raises(LibraryError, match="is gone"):
        library.put(KEY, STATE, FACTS)
    assert not filesystem.exists(root)
    filesystem.makedirs(root, exist_ok=True)


def test_an_address_that_cannot_be_is_told(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="cannot open nosuch://here: .*use another storage"):
        Library("nosuch://here")
    (tmp_path / "file").touch()
    with pytest.raises(LibraryError, match=r"library .*file/library: cannot"):
        Library(tmp_path / "file" / "library")


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    library = Library(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # the kernel refuses to write more
    try:
        with pytest.raises(LibraryError, match=r"cannot write .*safetensors: .*free space there"):
            library.put(KEY, STATE, FACTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / BLOCKS).iterdir()) == []
    library.put(KEY, STATE, FACTS)
    assert library.verify().sound == 1


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that this process may read and not write; root gives its rights up for it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Library(folder).put(KEY, STATE, FACTS)
        changed = [folder, *folder.rglob("*")]
        for path in changed:
            path.chmod(0o555 if path.is_dir() else 0o444)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)
            for path in changed:
                path.chmod(0o755)


def test_a_read_only_library_is_read_and_says_that_it_cannot_be_written(read_only: Path) -> None:
    library = Library(read_only)
    entry = library.get(KEY)
    assert entry is not None and same(entry.state, STATE)
    assert library.verify().sound == 1
    other = make_key(block="other")
    with library.working_on(other), pytest.raises(LibraryError, match="Permission denied"):
        library.put(other, STATE, FACTS)
    with pytest.raises(LibraryError, match=r"cannot remove .*Permission denied"):
        library.prune(guide=KEY.guide)


def test_what_may_not_be_read_is_told_and_not_taken_for_damage(read_only: Path) -> None:
    library = Library(read_only)
    path = file_of(read_only, ".json")
    root = os.geteuid() != os.getuid()
    if root:
        os.seteuid(0)
    path.chmod(0)
    if root:
        os.seteuid(65534)
    with pytest.raises(LibraryError, match=r"cannot read .*json: Permission denied"):
        library.get(KEY)
    assert not (read_only / DAMAGED).exists()


def test_prune_by_age_and_guide(location: str) -> None:
    library = Library(location)
    mine = library.put(KEY, STATE, FACTS)
    other = library.put(make_key(guide="h" * 16), STATE, FACTS)
    assert library.prune().records == ()
    assert library.prune(guide="").records == ()
    assert library.prune(older_than=timedelta(days=1)).records == ()
    long_ago = timedelta(seconds=-60)
    assert library.prune(older_than=long_ago, guide="x").records == ()
    assert library.prune(guide="gg", dry_run=True).records == (mine,)
    assert KEY in library
    assert library.prune(guide="gg").records == (mine,)
    assert KEY not in library and list(library.entries()) == [other]
    assert library.prune(older_than=long_ago).records == (other,)
    assert list(library.entries()) == [] and library.verify().leftovers == 0


def test_a_beginning_that_two_guides_have_prunes_neither(location: str) -> None:
    library = Library(location)
    library.put(make_key(guide="ga" * 8), STATE, FACTS)
    mine = library.put(make_key(guide="gb" * 8), STATE, FACTS)
    with pytest.raises(LibraryError, match="2 guides .*'g': gaga.*, gbgb.*; add more digits"):
        library.prune(guide="g")
    assert len(list(library.entries())) == 2
    assert library.prune(guide="gb").records == (mine,)


def test_prune_removes_old_leftovers_and_no_young_ones(tmp_path: Path) -> None:
    library = Library(tmp_path)
    record = library.put(KEY, STATE, FACTS)
    old, young = (tmp_path / BLOCKS / name for name in (".x.1.aside", "young.safetensors"))
    for path in (old, young):
        path.write_bytes(b"half")
    two_days_ago = young.stat().st_mtime - 2 * 86400
    for path in (old, tmp_path / BLOCKS / record.weights):
        os.utime(path, (two_days_ago, two_days_ago))
    assert library.verify().leftovers == 2
    assert library.prune(dry_run=True).leftovers == (old.name,)
    assert library.prune().leftovers == (old.name,)
    assert not old.exists() and young.exists() and library.get(KEY) is not None


def test_prune_removes_what_was_left_beside_the_blocks(tmp_path: Path) -> None:
    """Killed while the library was made, or while an entry was set aside."""
    library = Library(tmp_path)
    (tmp_path / DAMAGED).mkdir()
    made, aside = tmp_path / ".library.txt.1.aside", tmp_path / DAMAGED / ".x.txt.1.aside"
    for path in (made, aside):
        path.write_bytes(b"half")
    assert library.prune().leftovers == ()
    for path in (made, aside):
        os.utime(path, (0, 0))
    assert set(library.prune().leftovers) == {made.name, aside.name}
    assert not made.exists() and not aside.exists() and (tmp_path / "library.txt").exists()


def test_a_second_worker_waits_and_finds_the_block_made(tmp_path: Path) -> None:
    library = Library(tmp_path)
    seen: list[bool] = []

    def second() -> None:
        mine = Library(tmp_path)
        with mine.working_on(KEY):
            seen.append(KEY in mine)

    with library.working_on(KEY):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        assert seen == []
        library.put(KEY, STATE, FACTS)
    thread.join(30)
    assert seen == [True]


def test_a_lock_that_stays_taken_only_costs_work(tmp_path: Path) -> None:
    library, other = Library(tmp_path), Library(tmp_path)
    with library.working_on(KEY), other.working_on(KEY, timeout_s=0.05):
        other.put(KEY, STATE, FACTS)
    with Library("memory://no-locks").working_on(KEY):
        assert KEY in library


def test_a_record_of_an_earlier_version_has_no_scores_and_is_read(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.put(KEY, STATE, FACTS)
    path = file_of(tmp_path, ".json")
    content = json.loads(path.read_text())
    assert content.pop("checksum")
    for name in ("contribution_error", "divergence", "divergence_macs"):
        del content["facts"][name]
    path.write_text(json.dumps({**content, "checksum": short_hash(content, 16)}))
    record = library.record(KEY)
    assert record is not None and record.facts == FACTS and record.facts.divergence is None
    assert library.get(KEY) is not None and library.verify().sound == 1

    scored = replace(FACTS, contribution_error=0.5, divergence=0.0)
    library.put(make_key(block="scored"), STATE, scored)
    record = library.record(make_key(block="scored"))
    assert record is not None and record.facts == scored
