"""Sources as a value: gathered, saved, read back and compared."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from nas_theseus.errors import SpaceError, StorageError
from nas_theseus.space.sources import (
    Sources,
    difference,
    gather,
    read_sources,
    source_files,
    write_sources,
)

MODULES = (("blocks.py", "A = 1"), ("pkg/__init__.py", ""), ("pkg/part.py", "B = 2"))
SOURCES = Sources("/elsewhere/mine.py", "import blocks, pkg.part", MODULES)


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    folder = tmp_path / "space"
    (folder / "pkg").mkdir(parents=True)
    (folder / "mine.py").write_text(SOURCES.text)
    for name, text in MODULES:
        (folder / name).write_text(text)
    return folder / "mine.py"


def test_a_space_file_and_its_modules_are_gathered(
    space_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(space_file.parent)
    found = gather("mine.py")
    assert found == Sources(str(space_file), SOURCES.text, MODULES)
    assert found.folder == space_file.parent
    assert pickle.loads(pickle.dumps(found)) == found and hash(found) == hash(gather(space_file))


def test_the_hash_is_of_the_texts_wherever_they_lie(space_file: Path) -> None:
    assert gather(space_file).hash == SOURCES.hash
    others = [
        Sources(SOURCES.path, "import blocks", MODULES),
        Sources(SOURCES.path, SOURCES.text, MODULES[:2]),
        Sources(SOURCES.path, SOURCES.text, (("other.py", "A = 1"), *MODULES[1:])),
        Sources(SOURCES.path, SOURCES.text, (("blocks.py", "A = 2"), *MODULES[1:])),
    ]
    assert len({SOURCES.hash, *(other.hash for other in others)}) == 5


def test_what_cannot_be_saved_is_refused_when_it_is_gathered(space_file: Path) -> None:
    space_file.write_text("import fast, slow")
    for name in ("fast.so", "slow.pyc"):
        (space_file.parent / name).touch()
    with pytest.raises(SpaceError, match="2 mistakes\n.*fast.*\n.*slow"):
        gather(space_file)


def test_saved_sources_are_read_back(tmp_path: Path) -> None:
    write_sources(tmp_path, SOURCES)
    assert read_sources(tmp_path) == gather(tmp_path / "space.py") == SOURCES
    names = ("space.py", "sources.json", *(f"sources/{name}" for name, _ in MODULES))
    assert source_files(tmp_path) == names
    assert all((tmp_path / name).is_file() for name in names)


def test_modules_of_earlier_sources_are_removed_and_nothing_else(tmp_path: Path) -> None:
    write_sources(tmp_path, SOURCES)
    (tmp_path / "sources" / "somebody_s.py").touch()
    write_sources(tmp_path, Sources("mine.py", "", MODULES[1:2]))
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"space.py", "sources.json", "sources/pkg/__init__.py", "sources/somebody_s.py"}
    assert read_sources(tmp_path).modules == MODULES[1:2]


def test_a_folder_without_a_list_of_its_modules_is_read_as_a_space_file(space_file: Path) -> None:
    """As folders of older versions are, to which a person may have added the module."""
    path = space_file.rename(space_file.with_name("space.py"))
    assert read_sources(space_file.parent) == Sources(str(path), SOURCES.text, MODULES)
    assert source_files(space_file.parent) == ("space.py", "sources.json")


@pytest.mark.parametrize(
    "listed", ["../mine.py", "/etc/x.py", "a/../b.py", "", "data.json", 3, "a\n.py"]
)
def test_names_that_lead_out_of_the_folder_are_refused(listed: object, tmp_path: Path) -> None:
    write_sources(tmp_path, SOURCES)
    (tmp_path / "sources.json").write_text(json.dumps({"path": "x", "modules": [listed]}))
    for read in (read_sources, source_files):
        with pytest.raises(StorageError, match="sources.json is damaged"):
            read(tmp_path)


@pytest.mark.parametrize("name", ["sources/blocks.py", "space.py"])
def test_a_file_that_is_gone_is_named(name: str, tmp_path: Path) -> None:
    write_sources(tmp_path, SOURCES)
    (tmp_path / name).unlink()
    with pytest.raises(StorageError, match=f"{name}.*copy the whole folder again"):
        read_sources(tmp_path)


@pytest.mark.parametrize("content", [b"A = \xec", b"A = 3"])
@pytest.mark.parametrize("name", ["sources/blocks.py", "space.py"])
def test_a_damaged_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    write_sources(tmp_path, SOURCES)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StorageError, match=f"{name} is damaged.*restore it from a backup"):
        read_sources(tmp_path)


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    write_sources(tmp_path, SOURCES)
    (tmp_path / "sources.json").write_text("{")
    with pytest.raises(StorageError, match="sources.json is damaged"):
        read_sources(tmp_path)


def test_the_difference_names_the_files_and_shows_the_lines() -> None:
    moved = Sources("/elsewhere/other_name.py", SOURCES.text, MODULES)
    assert difference(SOURCES, moved) is None
    edited = Sources(SOURCES.path, SOURCES.text, (("blocks.py", "A = 3"), *MODULES[1:]))
    assert difference(SOURCES, edited) == "\n".join(
        [
            "blocks.py",
            "--- saved blocks.py",
            "+++ given blocks.py",
            "@@ -1 +1 @@",
            "-A = 1",
            "+A = 3",
        ]
    )
    fewer = Sources(SOURCES.path, "import blocks", MODULES[:1])
    said = difference(SOURCES, fewer)
    assert said is not None and said.startswith("mine.py, pkg/__init__.py, pkg/part.py\n")
