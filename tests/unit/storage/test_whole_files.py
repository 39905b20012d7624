"""Files and folders that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas_theseus.errors import StorageError
from nas_theseus.storage.whole_files import replacing


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
