"""Text as tokens in memory-mapped files: encoded once, in bounded memory, for all processes."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from nas_theseus.errors import DataError
from nas_theseus.storage.json_files import is_own_file, read_json, text, whole
from nas_theseus.storage.whole_files import (
    DAY_S,
    make_folder,
    remove_leftovers,
    replacing,
    write_json,
)
from nas_theseus.tasks.text_sources import TextSource
from nas_theseus.tasks.tokenizing import encode_stream, load_tokenizer, vocabulary_size
from nas_theseus.values.ids import short_hash

logger = logging.getLogger(__name__)

# Part of every key: raise it when the same text would give other tokens or another file.
_VERSION = 1
_FEWEST_BYTES_A_TOKEN = 3
_KINDS = "<u2", "<u4"


def default_cache() -> Path:
    """``nas-theseus`` in the user's folder for caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nas-theseus"


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text, on disk.

    Attributes:
        path: a NumPy file of one dimension, of uint16 or uint32.
        count: number of tokens.
        digest: SHA-256 of the tokens.
    """

    path: Path
    count: int
    digest: str

    @cached_property
    def mapped(self) -> npt.NDArray[Any]:
        """The tokens, (count,), read from disk where they are used; processes share the pages."""
        found: npt.NDArray[Any] = np.lib.format.open_memmap(self.path, mode="r")
        return found


@dataclass(frozen=True)
class TokenCache:
    """Files of tokens in a folder, which can be deleted at any time.

    Attributes:
        folder: of the files.
        tokenizer: file of the tokenizer.
        separator: text of a token that is put behind each document; None for nothing.
    """

    folder: Path
    tokenizer: Path
    separator: str | None = None

    def get(self, source: TextSource, limit: int | None = None) -> Tokens:
        """The tokens of a text: from the cache, or else encoded and saved.

        Other processes that need the same tokens wait until one has saved them.

        Args:
            limit: encode only so many.

        Raises:
            DataError: the text cannot be read, or its tokens do not fit on the disk.
            StorageError: the folder cannot be written.
        """
        content = hashlib.sha256(self.tokenizer.read_bytes()).hexdigest()
        key = [_VERSION, content, self.separator, limit, source.fingerprint()]
        path = self.folder / f"tokens-{short_hash(key, 16)}.npy"
        if found := _read(path):
            return found
        make_folder(self.folder, "cache=")
        with FileLock(path.with_suffix(".lock")):
            remove_leftovers(self.folder, DAY_S)
            return _read(path) or self._make(source, limit, path)

    def _make(self, source: TextSource, limit: int | None, path: Path) -> Tokens:
        source.check()
        tokenizer = load_tokenizer(self.tokenizer)
        size = vocabulary_size(self.tokenizer)
        kind = np.dtype(_KINDS[size > 1 << 16])
        text_bytes = source.about_bytes()
        self._check_space(text_bytes, limit, kind.itemsize)
        logger.info(
            "encoding %d files of text (%.1f MB) into %s",
            *(len(source.files), text_bytes / 1e6, path),
        )
        digest, count = hashlib.sha256(), 0
        with replacing(path) as aside, aside.open("wb") as file:
            _write_header(file, kind, 0)
            for ids in encode_stream(tokenizer, source.documents(), self._separator(tokenizer)):
                left = len(ids) if limit is None else limit - count
                data = ids[:left].astype(kind).tobytes()
                file.write(data)
                digest.update(data)
                count += len(data) // kind.itemsize
                if count == limit:
                    break
            file.seek(0)
            _write_header(file, kind, count)
        write_json(_description(path), {"count": count, "digest": digest.hexdigest()})
        return Tokens(path, count, digest.hexdigest())

    def _separator(self, tokenizer: Any) -> int | None:
        if self.separator is None:
            return None
        found: int | None = tokenizer.token_to_id(self.separator)
        if found is None:
            raise DataError(
                f"separator: the tokenizer {self.tokenizer} has no token {self.separator!r}; it "
                "is one such as '<|endoftext|>' or '</s>'"
            )
        return found

    def _check_space(self, text_bytes: int, limit: int | None, itemsize: int) -> None:
        tokens = text_bytes // _FEWEST_BYTES_A_TOKEN
        needed = min(tokens, tokens if limit is None else limit) * itemsize
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DataError(
                f"the tokens of {text_bytes / 1e6:,.1f} MB of text need about "
                f"{needed / 1e6:,.1f} MB in {self.folder}, where {free / 1e6:,.1f} MB are free; "
                "give cache= a folder on another disk, or a limit with tokens="
            )


def _write_header(file: Any, kind: np.dtype[Any], count: int) -> None:
    """The beginning of a NumPy file, which is as long for any count."""
    header = {"descr": kind.str, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)


def _description(path: Path) -> Path:
    return path.with_suffix(".json")


def _read(path: Path) -> Tokens | None:
    """The tokens that were saved; None if there are none, or a file is damaged."""
    try:
        described = read_json(_description(path))
        tokens = Tokens(path, whole(described["count"]), text(described["digest"]))
        is_whole = is_own_file(path) and tokens.mapped.shape == (tokens.count,)
        return tokens if is_whole and tokens.mapped.dtype.str in _KINDS else None
    except Exception:  # NumPy's reader of headers raises what its parser does
        return None
