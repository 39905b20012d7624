"""Write the report of a search as one HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.records import Records
from nas_theseus.searches.report_page import write_report


@dataclass(frozen=True)
class Reported:
    """A report that was written.

    Attributes:
        path: the file.
        state: how far the search is, in a sentence.
    """

    path: Path
    state: str


def report(
    name: str, *, storage: str | Path = "theseus", out: str | Path | None = None
) -> Reported:
    """Write what a search has found so far as one HTML file that is read without a network.

    Runs no code of the search's space, and trains nothing.

    Args:
        name: of the search, finished or not.
        storage: folder of searches.
        out: the file. Default: ``report.html`` in the search's folder.

    Raises:
        StorageError: no such search, or the file cannot be written.
    """
    records = Records.read(SearchFolder(Path(storage), name))
    return Reported(write_report(records, None if out is None else Path(out)), records.state)
