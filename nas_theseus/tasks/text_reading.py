"""Read text files as streams: encodings by byte-order mark, line ends of any system."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

from nas_theseus.errors import DataError

_CHUNK_BYTES = 1 << 20
# Byte-order marks; the longer first, as one of UTF-32 begins with one of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


def read_text(path: Path) -> str:
    """A file's text; see `read_chunks`.

    Raises:
        DataError: as for `read_chunks`.
    """
    return "".join(read_chunks(path))


def read_chunks(path: Path) -> Iterator[str]:
    """A file's text in pieces of about a mebibyte, with the line ends of any system as newlines.

    The encoding is UTF-8, or what a byte-order mark says, which is no part of the text.

    Raises:
        DataError: the file cannot be read, is not in UTF-8, or in UTF-16 or 32 without a mark.
    """
    try:
        with path.open("rb") as file:
            yield from _decoded(path, file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def normalised(text: str) -> str:
    """A text with the line ends of any system as newlines."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decoded(path: Path, file: io.BufferedReader) -> Iterator[str]:
    data = file.read(_CHUNK_BYTES)
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    # Keeps a "\r" until the next chunk says whether "\n" follows.
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), translate=True)
    begin = 0
    while True:
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            # The decoder also held bytes of the chunk before.
            position = begin + len(data) - len(error.object) + error.start
            raise DataError(
                f"{path} cannot be read as {encoding.partition('-sig')[0].upper()} text: "
                f"{error.reason} at byte {position:,}; save it in UTF-8"
            ) from error
        if "\0" in text:
            raise DataError(
                f"{path} has NUL characters, as text in UTF-16 without a byte-order mark has, or a "
                "file that is no text; save it in UTF-8"
            )
        if text:
            yield text
        if not data:
            return
        begin += len(data)
        data = file.read(_CHUNK_BYTES)
