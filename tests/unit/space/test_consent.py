"""Consent to run a space file: given by running it by name, or by an option."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas_theseus.errors import StorageError
from nas_theseus.space.consent import remember, runnable


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_the_user_s_own_file_is_run_unasked_as_long_as_it_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, kept = tmp_path / "mine.py", tmp_path / "kept.py"
    own.write_text("# a space")
    kept.write_text("# a space")
    with pytest.raises(StorageError, match="kept.py.*add --trust-code"):
        runnable(kept, trust_code=False)
    assert runnable(kept, trust_code=True) == kept
    monkeypatch.chdir(tmp_path)
    remember(Path("mine.py"))
    assert runnable(kept, trust_code=False) == runnable(kept, trust_code=True) == own
    own.write_text("# another space")
    with pytest.raises(StorageError):
        runnable(kept, trust_code=False)
    own.unlink()
    with pytest.raises(StorageError):
        runnable(kept, trust_code=False)
    assert runnable(kept, trust_code=True) == kept


def test_a_copy_with_other_text_needs_consent(tmp_path: Path) -> None:
    own, kept = tmp_path / "mine.py", tmp_path / "kept.py"
    own.write_text("# a space")
    kept.write_text("# a space with something added")
    remember(own)
    with pytest.raises(StorageError):
        runnable(kept, trust_code=False)


def test_where_no_note_can_be_written_consent_is_asked_for(tmp_path: Path, state: Path) -> None:
    state.write_text("a file where the folder should be")
    own = tmp_path / "mine.py"
    own.write_text("# a space")
    remember(own)
    remember(tmp_path / "absent.py")
    with pytest.raises(StorageError):
        runnable(own, trust_code=False)
