"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nas_theseus.errors import StorageError
from nas_theseus.storage.whole_files import DAY_S, leftovers, remove_leftovers, replacing


def test_a_file_is_replaced_and_stays_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with replacing(path) as aside:
        aside.write_text("first")
    with pytest.raises(RuntimeError), replacing(path) as aside:
        aside.write_text("second")
        raise RuntimeError
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(RuntimeError), replacing(path) as aside:
        (aside / "inner").mkdir(parents=True)
        (aside / "inner" / "file").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    path.mkdir()  # an empty folder is replaced
    with replacing(path) as aside:
        (aside / "inner").mkdir(parents=True)
        (aside / "inner" / "file").write_text("whole")
        assert list(path.iterdir()) == []
    assert (path / "inner" / "file").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_with_files_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "mine").write_text("mine")
    with pytest.raises(StorageError, match="cannot write .*folder"), replacing(path) as aside:
        aside.mkdir()
    assert (path / "mine").read_text() == "mine" and list(tmp_path.iterdir()) == [path]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    file, folder, probe = (tmp_path / "in" / n for n in (".a.0f.aside", ".b.aside", ".probe-x"))
    (folder / "inner").mkdir(parents=True)
    for path in (file, folder / "inner" / "half", probe):
        path.write_text("half")
    kept = [tmp_path / "in" / name for name in (".hidden", "mine.aside", "whole.json")]
    for path in kept:
        path.write_text("mine")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    (tmp_path / "in" / ".link.aside").symlink_to(outside)
    remove_leftovers(tmp_path / "in", DAY_S)  # too young
    assert len([*leftovers(tmp_path)]) == 4
    when = time.time() - 2 * DAY_S
    os.utime(file, (when, when))
    remove_leftovers(tmp_path / "in", DAY_S)
    assert not file.exists() and probe.exists()
    remove_leftovers(tmp_path / "in")
    assert sorted((tmp_path / "in").iterdir()) == sorted(kept)
    assert (outside / "mine").exists()
    remove_leftovers(tmp_path / "missing")
