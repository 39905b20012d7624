"""The library's commands: what they print, and their exit codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from nas_theseus import Recipe
from nas_theseus.cli.app import make_app
from nas_theseus.errors import LibraryError
from nas_theseus.library.block_key import BlockKey
from nas_theseus.library.record import Facts
from nas_theseus.library.store import BLOCKS, Library
from nas_theseus.values.architecture import Boundary, Span

KEY = BlockKey(
    "abcdef0123456789", "d", Span(1, 3), "mine", (("hidden", 4),), Boundary((4, 8, 8)),
    Boundary((8, 4, 4)), "c", Recipe(),
)  # fmt: skip


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    facts = Facts(0.9, 0.25, 3, 1_230_000, 0.5, "cpu")
    Library(tmp_path / "library").put(KEY, {"weight": torch.zeros(10)}, facts)
    return tmp_path


def run(storage: Path, *arguments: str) -> tuple[int, str]:
    command = ["library", *arguments, "--storage", str(storage)]
    result = CliRunner().invoke(make_app(), command, env={"COLUMNS": "200"})
    if isinstance(result.exception, LibraryError):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def test_ls_shows_every_block(storage: Path) -> None:
    code, printed = run(storage, "ls")
    assert code == 0
    for text in ("1 blocks", "mine(hidden=4)", "1-2", "abcdef01", "0.2500", "1.23 M"):
        assert text in printed


def test_ls_shows_the_divergence_where_it_was_measured(storage: Path) -> None:
    assert " - " in run(storage, "ls")[1]
    facts = Facts(0.9, 0.25, 3, 1_230_000, 0.5, "cpu", divergence=0.0123)
    other = replace(KEY, block="other")
    Library(storage / "library").put(other, {"weight": torch.zeros(10)}, facts)
    printed = run(storage, "ls")[1]
    assert "divergence" in printed and "0.0123" in printed


def test_verify_ends_with_1_when_it_set_something_aside(storage: Path) -> None:
    assert run(storage, "verify")[0] == 0
    (path,) = (storage / "library" / BLOCKS).glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    code, printed = run(storage, "verify")
    assert code == 1
    assert f"set aside {KEY.id}: the weights have" in printed
    assert run(storage, "verify")[0] == 0


def test_prune_tells_first_and_then_removes(storage: Path) -> None:
    assert "removed: 0 blocks" in run(storage, "prune")[1]
    assert "would be removed: 1 blocks" in run(storage, "prune", "--guide", "abc", "--dry-run")[1]
    assert "removed: 0 blocks" in run(storage, "prune", "--guide", "abc", "--older-than", "1")[1]
    assert run(storage, "prune", "--guide", "")[1].startswith("removed: 0 blocks")
    assert KEY in Library(storage / "library")
    assert "removed: 1 blocks" in run(storage, "prune", "--guide", "abc")[1]
    assert KEY not in Library(storage / "library")


def test_no_library_is_told_and_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="there is no library"):
        run(tmp_path, "ls")
    assert list(tmp_path.iterdir()) == []
