"""The report of a search: all sections on one HTML page that is read without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nas_theseus.errors import StorageError
from nas_theseus.pictures.page import Chapter, Paragraph, html_page
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.records import Records
from nas_theseus.searches.section import Section
from nas_theseus.storage.whole_files import write_bytes
from nas_theseus.values.registers import SECTIONS
from nas_theseus.values.version import VERSION


def report_page(records: Records) -> str:
    """The page as HTML."""
    sections: dict[str, Section] = {name: SECTIONS[name] for name in SECTIONS}
    ordered = sorted(sections.items(), key=lambda item: item[1].place)
    chapters = [
        Chapter(section.title, f"section-{name}", section.write(records))
        for name, section in ordered
    ]
    limits = ", ".join(map(str, records.begun.constraints)) or "none"
    opening = [
        Paragraph(records.state),
        Paragraph(
            f"Objectives: {', '.join(f'{g.direction} {g.name}' for g in records.goals)}. "
            f"Limits: {limits}. Sampler: {records.begun.sampler}, seed {records.begun.seed}. "
            f"Written by nas-theseus {VERSION}."
        ),
    ]
    return html_page(f"Search {records.folder.name}", opening, chapters)


def write_report(records: Records, out: Path | None = None) -> Path:
    """Write the report of a search, atomically; returns its path.

    Args:
        out: the file. Default: ``report.html`` in the search's folder.

    Raises:
        StorageError: the file cannot be written.
    """
    path = records.folder.report_file if out is None else out
    if path.is_dir():
        raise StorageError(f"{path} is a folder; give a file, such as {path / 'report.html'}")
    write_bytes(path, report_page(records).encode())
    return path


def try_report(folder: SearchFolder, say: Callable[[str], None]) -> Path | None:
    """Write the report of a search; a page about results must not cost the results.

    Args:
        say: is told why there is none.
    """
    try:
        return write_report(Records.read(folder))
    except Exception as error:
        say(f"the report could not be written: {type(error).__name__}: {error}")
        return None
