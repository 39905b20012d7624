"""Consent to run a space file: given by running it by name, or by an option."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas_theseus.errors import StorageError
from nas_theseus.space.consent import remember, runnable
from nas_theseus.space.sources import Sources, gather


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A space file that imports a module from its folder."""
    (tmp_path / "mine.py").write_text("import blocks")
    (tmp_path / "blocks.py").write_text("# blocks")
    return tmp_path / "mine.py"


def copy_of(path: Path) -> Sources:
    found = gather(path)
    return Sources("elsewhere/mine.py", found.text, found.modules)


def test_the_user_s_own_file_is_run_unasked_as_long_as_it_is_as_it_was(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, folder = copy_of(own), Path("kept")
    with pytest.raises(StorageError, match="kept/space.py and in kept/sources.*add --trust-code"):
        runnable(kept, folder, trust_code=False)
    assert runnable(kept, folder, trust_code=True) == kept
    monkeypatch.chdir(own.parent)
    remember(gather("mine.py"))
    asked = runnable(kept, folder, trust_code=False)
    assert asked == runnable(kept, folder, trust_code=True) == gather(own)
    own.write_text("import blocks  # another space")
    with pytest.raises(StorageError):
        runnable(kept, folder, trust_code=False)
    own.unlink()
    with pytest.raises(StorageError):
        runnable(kept, folder, trust_code=False)
    assert runnable(kept, folder, trust_code=True) == kept


def test_an_edited_module_beside_the_file_needs_consent(own: Path) -> None:
    kept = copy_of(own)
    remember(gather(own))
    (own.parent / "blocks.py").write_text("# other blocks")
    with pytest.raises(StorageError):
        runnable(kept, Path("kept"), trust_code=False)


def test_a_copy_with_other_text_needs_consent(own: Path) -> None:
    remember(gather(own))
    kept = copy_of(own)
    for other in (
        Sources(kept.path, f"{kept.text} # with something added", kept.modules),
        Sources(kept.path, kept.text, (("blocks.py", "# with something added"),)),
    ):
        with pytest.raises(StorageError):
            runnable(other, Path("kept"), trust_code=False)


def test_where_no_note_can_be_written_consent_is_asked_for(own: Path, state: Path) -> None:
    state.write_text("a file where the folder should be")
    remember(gather(own))
    with pytest.raises(StorageError):
        runnable(gather(own), Path("kept"), trust_code=False)
