"""Tables of a new SQLite file; tests/faults/test_damage.py kills while they are made."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.engine import Engine

from nas_theseus.services.mlflow.connection import connect
from nas_theseus.services.sqlite_tables import make_tables

FLUSHED = text("PRAGMA synchronous")


def engine_at(url: str) -> Engine:
    return sqlalchemy.create_engine(url)


def test_tables_are_made_without_flushes_and_used_with_them(tmp_path: Path) -> None:
    file, other = tmp_path / "new.db", tmp_path / "other.db"
    flushes = []

    def make(url: str) -> None:
        for place in (url, f"sqlite:///{other}"):
            with engine_at(place).begin() as connection:
                flushes.append(connection.execute(FLUSHED).scalar())
                connection.execute(text("CREATE TABLE numbers (one INTEGER)"))
        assert not file.exists()

    for _ in range(2):  # made once
        make_tables(f"sqlite:///{file}", make)
        with engine_at(f"sqlite:///{file}").begin() as used:
            assert used.execute(text("SELECT count(*) FROM numbers")).scalar() == 0
            assert used.execute(FLUSHED).scalar()
    assert not flushes[0] and flushes[1] and len(flushes) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"new.db", "new.db.lock", "other.db"}


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///nowhere/new.db", "postgresql://here/one"])
def test_other_databases_and_missing_folders_are_left_to_the_library(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_tables(url, pytest.fail)
    assert not [*tmp_path.iterdir()]


def test_a_link_to_a_new_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "new.db").symlink_to(tmp_path / "disk" / "new.db")

    def make(url: str) -> None:
        with engine_at(url).begin() as connection:
            connection.execute(text("CREATE TABLE numbers (one INTEGER)"))

    make_tables(f"sqlite:///{tmp_path / 'new.db'}", make)
    assert (tmp_path / "new.db").is_symlink()
    sqlite3.connect(tmp_path / "disk" / "new.db").execute("SELECT * FROM numbers").close()


def test_mlflow_s_new_file_in_a_new_folder_is_made_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "mlflow.db"
    connect(f"sqlite:///{file}")
    assert (file.parent / "mlflow.db.lock").exists() and file.stat().st_size
